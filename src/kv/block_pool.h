// Which blocks of the KV cache are in use. Host bookkeeping only; knows no memory.
#pragma once

#include <cstdint>
#include <vector>

namespace dsr {

// Blocks are handed out one at a time and shared by reference counts. Not thread-safe: the
// scheduler's thread owns it.
class BlockPool {
 public:
  explicit BlockPool(int64_t n_blocks);

  int64_t n_blocks() const { return static_cast<int64_t>(references_.size()); }
  int64_t n_free() const { return static_cast<int64_t>(free_.size()); }

  // A block with one reference; -1 if none is free.
  int32_t take();
  void retain(int32_t block);
  // Gives one reference back; the last one frees the block.
  void release(int32_t block);

 private:
  std::vector<int32_t> references_;  // by block
  std::vector<int32_t> free_;        // a stack: the block freed last is taken first
};

}  // namespace dsr
