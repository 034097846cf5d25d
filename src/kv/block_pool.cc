#include "kv/block_pool.h"

#include "base/error.h"

namespace dsr {

BlockPool::BlockPool(int64_t n_blocks) : references_(static_cast<size_t>(n_blocks), 0) {
  for (int64_t b = n_blocks; b > 0; --b) free_.push_back(static_cast<int32_t>(b - 1));
}

int32_t BlockPool::take() {
  if (free_.empty()) return -1;
  const int32_t block = free_.back();
  free_.pop_back();
  references_[static_cast<size_t>(block)] = 1;
  return block;
}

void BlockPool::retain(int32_t block) {
  int32_t& n = references_.at(static_cast<size_t>(block));
  DSR_CHECK(n > 0, block);
  ++n;
}

void BlockPool::release(int32_t block) {
  int32_t& n = references_.at(static_cast<size_t>(block));
  DSR_CHECK(n > 0, block);
  if (--n == 0) free_.push_back(block);
}

}  // namespace dsr
