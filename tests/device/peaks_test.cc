// What measures the machine keeps its memory between two measurements.
#include "device/peaks.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace dsr::test {
namespace {

TEST(HugeMemory, WhatIsOfferedIsNotGivenBackUnasked) {
  constexpr int64_t kBytes = 16 * HugeMemory::kHugePage;
  const HugeMemory memory(kBytes);
  ASSERT_EQ(memory.size_bytes(), kBytes);
  std::fill_n(memory.data(), kBytes, std::byte{1});
  EXPECT_EQ(memory.resident_bytes(), kBytes);
  memory.offer();
  EXPECT_GT(memory.resident_bytes(), kBytes / 8 * 7);
  std::fill_n(memory.data(), kBytes, std::byte{2});
  EXPECT_EQ(std::count(memory.data(), memory.data() + kBytes, std::byte{2}), kBytes);
}

TEST(HugeMemory, OfNothingCanBeOffered) {
  const HugeMemory memory(0);
  memory.offer();
  EXPECT_EQ(memory.data(), nullptr);
  EXPECT_EQ(memory.resident_bytes(), 0);
}

TEST(PeakProbe, KeepsTheMemoryThatItReads) {
  Exec exec(Backend::kCpu);
  PeakProbe probe;
  EXPECT_EQ(probe.held_bytes(), 0);
  EXPECT_GT(probe.measure(exec).bytes_per_s, 0);
  EXPECT_GT(probe.held_bytes(), int64_t{512} << 20);
}

TEST(PeakProbe, ReadsTheHostsMemoryByItself) {
  for (const Backend backend : {Backend::kReference, Backend::kCpu}) {
    Exec exec(backend);
    PeakProbe probe;
    const double read = probe.read_bytes_per_s(exec);
    EXPECT_GT(read, 1e8);  // bytes, not gigabytes
    EXPECT_LT(read, 1e13);
    EXPECT_GT(probe.held_bytes(), int64_t{512} << 20);
  }
}

}  // namespace
}  // namespace dsr::test
