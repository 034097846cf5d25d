// What measures the machine keeps its memory between two measurements.
#include "device/peaks.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

namespace dsr::test {
namespace {

int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t all = 0, resident = 0;
  statm >> all >> resident;
  return resident * ::sysconf(_SC_PAGESIZE);
}

TEST(HugeMemory, WhatIsOfferedIsNotGivenBackUnasked) {
  constexpr int64_t kBytes = 16 * HugeMemory::kHugePage;
  const int64_t before = resident_bytes();
  const HugeMemory memory(kBytes);
  ASSERT_EQ(memory.size_bytes(), kBytes);
  EXPECT_EQ(memory.resident_bytes(), 0);
  std::fill_n(memory.data(), kBytes, std::byte{1});
  EXPECT_EQ(memory.resident_bytes(), kBytes);
  memory.offer();
  EXPECT_GT(resident_bytes() - before, kBytes / 8 * 7);
  std::fill_n(memory.data(), kBytes, std::byte{2});
  EXPECT_EQ(std::count(memory.data(), memory.data() + kBytes, std::byte{2}), kBytes);
}

TEST(HugeMemory, OfNothingCanBeOffered) {
  const HugeMemory memory(0);
  memory.offer();
  EXPECT_EQ(memory.data(), nullptr);
  EXPECT_EQ(memory.resident_bytes(), 0);
}

TEST(PeakProbe, KeepsTheMemoryThatItReadsForTheNextTime) {
  Exec exec(Backend::kCpu);
  const int64_t before = resident_bytes();
  PeakProbe probe;
  EXPECT_EQ(probe.held_bytes(), 0);
  EXPECT_GT(probe.measure(exec).bytes_per_s, 0);
  const int64_t held = probe.held_bytes();
  ASSERT_GT(held, 0);
  EXPECT_GT(resident_bytes() - before, held / 8 * 7);
  EXPECT_GT(probe.measure(exec).bytes_per_s, 0);
  EXPECT_EQ(probe.held_bytes(), held);
  EXPECT_LT(resident_bytes() - before, held / 8 * 9);
}

}  // namespace
}  // namespace dsr::test
