// The memory of the KV cache.
#pragma once

#include "device/exec.h"
#include "kv/kv_layout.h"

namespace dsr {

// Owns n_blocks blocks of every layer. Which block belongs to whom is BlockPool's business.
class KvCache {
 public:
  KvCache(Exec& exec, const KvLayout& layout, int64_t n_blocks);

  const KvLayout& layout() const { return layout_; }
  int64_t n_blocks() const { return n_blocks_; }
  // Puts a small finite number in every place, whatever the type of the cache.
  void fill();
  // One layer's pages; the layout must be of that kind.
  MlaCacheView mla(int64_t layer) const;
  GqaCacheView gqa(int64_t layer) const;

 private:
  Tensor pages(int64_t layer) const;

  KvLayout layout_;
  int64_t n_blocks_;
  Buffer buffer_;  // [n_layers][n_blocks][page_bytes]
};

}  // namespace dsr
