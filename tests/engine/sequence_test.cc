#include "engine/sequence.h"

#include <gtest/gtest.h>

#include <numeric>

#include "kv/kv_layout.h"

namespace dsr {
namespace {

std::vector<TokenId> iota(int64_t n, TokenId first = 0) {
  std::vector<TokenId> out(static_cast<size_t>(n));
  std::iota(out.begin(), out.end(), first);
  return out;
}

TEST(SequenceTest, TakesBlocksAsItGrowsAndGivesThemBack) {
  BlockPool pool(4);
  {
    Sequence s(pool);
    EXPECT_EQ(s.start_prompt(iota(65)), 0);
    EXPECT_TRUE(s.reserve(65));
    EXPECT_EQ(s.blocks().size(), 2u);
    EXPECT_EQ(pool.n_free(), 2);
    EXPECT_TRUE(s.reserve(64)) << "less than there is needs nothing";
    EXPECT_FALSE(s.reserve(5 * kPageTokens));
    EXPECT_EQ(pool.n_free(), 2) << "a refused reservation takes nothing";
  }
  EXPECT_EQ(pool.n_free(), 4);
}

TEST(SequenceTest, KeepsTheLongestCommonPrefixOfWhatWasComputed) {
  BlockPool pool(8);
  Sequence s(pool);
  s.start_prompt(iota(200));
  ASSERT_TRUE(s.reserve(200));
  s.mark_computed(150);  // 50 tokens never ran

  std::vector<TokenId> same_beginning = iota(180);
  EXPECT_EQ(s.start_prompt(same_beginning), 150) << "only computed tokens count";
  EXPECT_EQ(s.n_computed(), 150);

  std::vector<TokenId> fork = iota(180);
  fork[100] = -7;
  EXPECT_EQ(s.start_prompt(fork), 100);
  EXPECT_EQ(s.n_computed(), 100);
  EXPECT_EQ(static_cast<int64_t>(s.blocks().size()), blocks_for(100));
  EXPECT_EQ(s.tokens(), fork);
}

TEST(SequenceTest, RunsAtLeastTheLastTokenOfAPromptAgain) {
  BlockPool pool(8);
  Sequence s(pool);
  s.start_prompt(iota(64));
  ASSERT_TRUE(s.reserve(64));
  s.mark_computed(64);
  EXPECT_EQ(s.start_prompt(iota(64)), 63);
  EXPECT_EQ(s.start_prompt(iota(10)), 9) << "a prompt that is a prefix of what there is";
}

TEST(SequenceTest, ForgettingKeysKeepsTheTokens) {
  BlockPool pool(2);
  Sequence s(pool);
  s.start_prompt(iota(100));
  ASSERT_TRUE(s.reserve(128));
  s.mark_computed(40);
  s.drop_unused_blocks();
  EXPECT_EQ(s.blocks().size(), 1u);
  EXPECT_EQ(s.n_computed(), 40);
  s.forget_keys();
  EXPECT_EQ(pool.n_free(), 2);
  EXPECT_EQ(s.n_computed(), 0);
  EXPECT_EQ(s.tokens(), iota(100));
}

TEST(SequenceTest, TakesOverWhatAnotherComputedButForTheLastToken) {
  BlockPool pool(8);
  Sequence a(pool), b(pool), c(pool);
  a.start_prompt(iota(192));
  ASSERT_TRUE(a.reserve(192));
  a.mark_computed(192);
  b.start_prompt(iota(192));
  EXPECT_EQ(b.find_computed(), 128);
  EXPECT_EQ(b.blocks()[1], a.blocks()[1]);
  std::vector<TokenId> fork = iota(300);
  fork[127] = -1;
  c.start_prompt(fork);
  EXPECT_EQ(c.find_computed(), 64);
  EXPECT_EQ(pool.n_free(), 5);
}

TEST(SequenceTest, NeverWritesABlockThatIsShared) {
  BlockPool pool(8);
  Sequence a(pool), b(pool);
  a.start_prompt(iota(128));
  ASSERT_TRUE(a.reserve(128));
  a.mark_computed(128);
  std::vector<TokenId> fork = iota(128);
  fork[100] = -1;
  {
    Sequence other(pool);
    other.start_prompt(iota(200));
    ASSERT_EQ(other.find_computed(), 128);
    EXPECT_EQ(a.start_prompt(fork), 64) << "the other one uses the second block";
    EXPECT_EQ(other.n_computed(), 128);
  }
  EXPECT_EQ(a.find_computed(), 0);
  ASSERT_TRUE(a.reserve(128));
  a.mark_computed(64);
  EXPECT_EQ(a.start_prompt(iota(128)), 100) << "now it is its own, and no longer to be found";
  b.start_prompt(fork);
  EXPECT_EQ(b.find_computed(), 64);
}

}  // namespace
}  // namespace dsr
