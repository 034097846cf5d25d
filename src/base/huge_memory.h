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
  int64_t size_bytes() const { return bytes_; }
  int64_t resident_bytes() const;

  // What is in it is not needed any more: the kernel takes it when it is short of memory, and not
  // before. Where it was taken, there are zeros. What is written from now on stays.
  void offer() const;

  static constexpr int64_t kHugePage = int64_t{2} << 20;

 private:
  int64_t bytes_;
  void* mapping_ = nullptr;
  size_t mapping_bytes_ = 0;
  std::byte* data_ = nullptr;
};

}  // namespace dsr
