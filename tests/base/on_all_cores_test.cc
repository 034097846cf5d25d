#include "base/on_all_cores.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace dsr::test {
namespace {

TEST(OnAllCores, CallsForEachOnce) {
  for (const size_t n : {size_t{0}, size_t{1}, size_t{1000}}) {
    std::vector<std::atomic<int>> calls(n);
    on_all_cores(n, [&](size_t i) { ++calls[i]; });
    for (const auto& c : calls) EXPECT_EQ(c, 1);
  }
}

TEST(OnAllCores, ThrowsWhatACallThrows) {
  for (const size_t bad : {size_t{0}, size_t{99}})
    EXPECT_THROW(on_all_cores(100,
                              [&](size_t i) {
                                if (i == bad) throw std::runtime_error("bad");
                              }),
                 std::runtime_error);
}

}  // namespace
}  // namespace dsr::test
