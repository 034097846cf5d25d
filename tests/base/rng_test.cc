#include "base/rng.h"

#include <gtest/gtest.h>

#include <set>

namespace dsr {
namespace {

// Known answers for philox4x32-10 from the Random123 distribution (Salmon et al., SC11).
TEST(PhiloxTest, KnownAnswers) {
  EXPECT_EQ(philox4x32(0, {0, 0, 0, 0}),
            (PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32(0xffffffffffffffff, {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}),
            (PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  // Counter and key are the first digits of pi; the key's low word comes first.
  EXPECT_EQ(philox4x32(0x299f31d0a4093822, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
            (PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// A 1 would be an infinite Gumbel deviate: a token drawn whatever its probability.
TEST(PhiloxTest, UniformsAreInsideTheOpenInterval) {
  EXPECT_EQ(uniform_open(0), 0x1p-24f);
  EXPECT_EQ(uniform_open(0x1ff), 0x1p-24f);
  EXPECT_EQ(uniform_open(0x200), 3 * 0x1p-24f);
  EXPECT_EQ(uniform_open(0x80000000), 0.5f + 0x1p-24f);
  EXPECT_EQ(uniform_open(0xffffffff), 1.0f - 0x1p-24f);
}

TEST(PhiloxTest, StreamsAreReproducibleAndDifferent) {
  PhiloxStream a(1, 0), again(1, 0), other_seed(2, 0), other_stream(1, 1);
  std::set<uint32_t> seen;
  for (int i = 0; i < 9; ++i) {  // more than two blocks
    const uint32_t x = a.next_u32();
    EXPECT_EQ(x, again.next_u32());
    seen.insert({x, other_seed.next_u32(), other_stream.next_u32()});
  }
  EXPECT_EQ(seen.size(), 27u);
  PhiloxStream first(0, 0);
  EXPECT_EQ(first.next_u32(), 0x6627e8d5u);
}

// Mean and variance of n deviates have standard deviations 1/sqrt(n) and sqrt(2/n); five of them.
TEST(PhiloxTest, NormalsHaveMeanZeroAndVarianceOne) {
  constexpr int kN = 100'000;
  PhiloxStream stream(7, 3);
  double sum = 0, squares = 0;
  for (int i = 0; i < kN; ++i) {
    const double x = stream.next_normal();
    sum += x;
    squares += x * x;
  }
  EXPECT_LT(std::abs(sum / kN), 5 / std::sqrt(double{kN}));
  EXPECT_LT(std::abs(squares / kN - 1), 5 * std::sqrt(2.0 / kN));
}

}  // namespace
}  // namespace dsr
