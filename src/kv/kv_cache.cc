#include "kv/kv_cache.h"

#include "base/error.h"

namespace dsr {

KvCache::KvCache(Exec& exec, const KvLayout& layout, int64_t n_blocks)
    : layout_(layout),
      n_blocks_(n_blocks),
      buffer_(exec, MemoryKind::kKvCache, n_blocks * layout.bytes_per_block()) {}

Tensor KvCache::pages(int64_t layer) const {
  DSR_CHECK(layer >= 0 && layer < layout_.n_layers, layer);
  const int64_t layer_bytes = n_blocks_ * layout_.page_bytes();
  const std::byte* data =
      buffer_.data() == nullptr ? nullptr : buffer_.data() + layer * layer_bytes;
  return Tensor::of(data, DType::kU8, {n_blocks_, layout_.page_bytes()});
}

MlaCacheView KvCache::mla(int64_t layer) const {
  return {std::get<MlaRowFormat>(layout_.format), pages(layer)};
}

GqaCacheView KvCache::gqa(int64_t layer) const {
  return {std::get<GqaPageFormat>(layout_.format), pages(layer)};
}

}  // namespace dsr
