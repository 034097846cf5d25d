// Memory for weights: one range that the kernel is asked to make of huge pages, so that reading it
// from end to end does not wait for address translation.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dsr {

class HugeMemory {
 public:
  // `bytes` of zeros; none of them takes memory before it is written. Throws Error(kDoesNotFit).
  explicit HugeMemory(int64_t bytes);
  HugeMemory(const HugeMemory&) = delete;
  HugeMemory& operator=(const HugeMemory&) = delete;
  ~HugeMemory();

  // A multiple of kHugePage, where there is memory at all.
  std::byte* data() const { return data_; }

  static constexpr int64_t kHugePage = int64_t{2} << 20;

 private:
  void* mapping_ = nullptr;
  size_t mapping_bytes_ = 0;
  std::byte* data_ = nullptr;
};

}  // namespace dsr
