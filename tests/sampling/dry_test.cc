#include "sampling/dry.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <random>

#include "sampling/sampler_state.h"
#include "text/text_fixture.h"

namespace dsr {
namespace {

// The definition: every earlier position, every length.
std::vector<TokenPenalty> plain_dry(const std::vector<TokenId>& text, const DryParams& params,
                                    const std::vector<bool>& breakers) {
  const auto breaks = [&](TokenId id) {
    return static_cast<size_t>(id) < breakers.size() && breakers[static_cast<size_t>(id)];
  };
  const auto n = static_cast<int64_t>(text.size());
  const auto at = [&](int64_t i) { return text[static_cast<size_t>(i)]; };
  std::map<TokenId, int64_t> longest;
  for (int64_t next = 1; next < n; ++next) {  // the token that followed
    if (breaks(at(next))) continue;
    int64_t length = 0;
    while (length < next && length < params.allowed_length + 50 &&
           at(next - 1 - length) == at(n - 1 - length) && !breaks(at(n - 1 - length)))
      ++length;
    longest[at(next)] = std::max(longest[at(next)], length);
  }
  std::vector<TokenPenalty> out;
  for (const auto& [id, length] : longest)
    if (length >= params.allowed_length)
      out.push_back(
          {id, std::min(1e6, params.multiplier *
                                 std::pow(params.base,
                                          static_cast<double>(length - params.allowed_length)))});
  return out;
}

TEST(Dry, PenalisesWhatWouldContinueARepetition) {
  const std::vector<bool> none;
  Dry dry({.multiplier = 0.8, .base = 1.75, .allowed_length = 2}, none);
  EXPECT_TRUE(dry.penalties({}).empty());
  // "1 2 3 4 | 1 2" was followed by 3; "2" alone is too short to count.
  const std::vector<TokenId> text = {1, 2, 3, 4, 1, 2, 3};
  EXPECT_TRUE(dry.penalties(std::span(text).first(5)).empty());
  EXPECT_EQ(dry.penalties(std::span(text).first(6)), (std::vector<TokenPenalty>{{3, 0.8}}));
  EXPECT_EQ(dry.penalties(text), (std::vector<TokenPenalty>{{4, 0.8 * 1.75}}));
  EXPECT_EQ(dry.penalties(text), (std::vector<TokenPenalty>{{4, 0.8 * 1.75}})) << "asked again";
}

TEST(Dry, ARepetitionEndsAtABreaker) {
  std::vector<bool> breakers(10, false);
  breakers[9] = true;
  const DryParams params{.multiplier = 1, .base = 2, .allowed_length = 1};
  const std::vector<TokenId> over = {5, 9, 1, 2, 5, 9, 1};  // 1 after the break: length 1, not 3
  EXPECT_EQ(Dry(params, breakers).penalties(over), (std::vector<TokenPenalty>{{2, 1}}));
  const std::vector<TokenId> before = {1, 9, 2, 1};  // a breaker itself is free
  EXPECT_TRUE(Dry(params, breakers).penalties(before).empty());
  const std::vector<TokenId> at_end = {1, 9, 2, 1, 9};
  EXPECT_TRUE(Dry(params, breakers).penalties(at_end).empty());
}

TEST(Dry, PenaltiesAreFiniteHoweverLongTheRepetition) {
  const std::vector<bool> none;
  const std::vector<TokenId> text(5000, 3);
  for (const double base : {1.0, 1.75, 100.0}) {
    const auto penalties =
        Dry({.multiplier = 100, .base = base, .allowed_length = 1}, none).penalties(text);
    ASSERT_EQ(penalties.size(), 1u);
    EXPECT_EQ(penalties[0].penalty, base == 1 ? 100 : 1e6);
  }
}

// Small alphabets and copied stretches make repetitions of every length; the state is asked at
// every token, now and then, or once at the end.
TEST(Dry, AgreesWithTheQuadraticDefinition) {
  std::mt19937 random(3);
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
  int64_t penalised = 0, long_ones = 0;
  for (int round = 0; round < 400; ++round) {
    const size_t letters = 1 + below(12);
    std::vector<bool> breakers(12, false);
    if (below(2) == 0) breakers[below(12)] = true;
    const DryParams params{
        .multiplier = 0.5,
        .base = 1 + static_cast<double>(below(3)) / 2,
        .allowed_length = 1 + static_cast<int64_t>(below(below(2) == 0 ? 4 : 70))};
    std::vector<TokenId> text;
    while (text.size() < 300) {
      if (!text.empty() && below(4) == 0) {
        const size_t first = below(text.size()), n = below(90);
        for (size_t i = 0; i < n; ++i) text.push_back(text[first + i]);
      } else {
        text.push_back(static_cast<TokenId>(below(letters)));
      }
    }
    Dry dry(params, breakers);
    const size_t stride = round % 3 == 0 ? 1 : 1 + below(150);
    for (size_t n = below(stride + 1); n <= text.size(); n += stride) {
      const std::vector<TokenId> so_far(text.begin(), text.begin() + static_cast<long>(n));
      const std::vector<TokenPenalty> want = plain_dry(so_far, params, breakers);
      ASSERT_EQ(dry.penalties(so_far), want) << "round " << round << ", token " << n;
      penalised += want.empty() ? 0 : 1;
      for (const TokenPenalty& p : want) long_ones += p.penalty > 1000 ? 1 : 0;
    }
  }
  EXPECT_GT(penalised, 5000);
  EXPECT_GT(long_ones, 500);
}

TEST(Dry, KeepsTheLongestWhereThereAreTooMany) {
  const std::vector<bool> none;
  std::vector<TokenId> text;
  for (TokenId id = 0; id < 5000; ++id) text.insert(text.end(), {100'000, id});
  text.insert(text.end(), {4999, 100'000, 4998, 100'000});  // the last three were followed by 4999
  const auto got = Dry({.multiplier = 1, .base = 2, .allowed_length = 1}, none).penalties(text);
  ASSERT_EQ(std::ssize(got), kMaxDryPenalties);
  EXPECT_EQ(got.back(), (TokenPenalty{4999, 4}));
  EXPECT_EQ(got[4094], (TokenPenalty{4094, 1}));
}

// 32K tokens of which every third is the same: as much as it has earlier occurrences, a token. A
// search of the text for each would take minutes.
TEST(Dry, LongTextsAreCheap) {
  const std::vector<bool> none;
  std::mt19937 random(5);
  std::vector<TokenId> text;
  for (int i = 0; i < 32'768; ++i)
    text.push_back(i % 3 == 0 ? 7 : static_cast<TokenId>(random() % 500));
  Dry dry({.multiplier = 0.8}, none);
  const auto start = std::chrono::steady_clock::now();
  size_t sum = dry.penalties(std::span(text).first(16'384)).size();  // the prompt, at once
  for (size_t n = 16'385; n <= text.size(); ++n)
    sum += dry.penalties(std::span(text).first(n)).size();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_GT(sum, 1000u);
  RecordProperty("us_per_token", std::to_string(seconds.count() * 1e6 / 16'384));
  EXPECT_LT(seconds.count(), 20);
}

TEST(Dry, BreakersAreLineBreaksColonsQuotesAsterisksAndControlTokens) {
  const std::unique_ptr<Tokenizer> tokenizer = test::load_fixture();
  const std::vector<bool> breakers = dry_breakers(tokenizer.get(), 400);
  ASSERT_EQ(breakers.size(), 400u);
  for (TokenId id = 0; id < 400; ++id) {
    const std::string bytes(tokenizer->has_entry(id) ? tokenizer->token_bytes(id) : "");
    const bool want = bytes.find_first_of("\n:\"*") != bytes.npos ||
                      (tokenizer->has_entry(id) && tokenizer->is_special(id));
    EXPECT_EQ(breakers[static_cast<size_t>(id)], want) << id;
  }
  EXPECT_EQ(std::count(breakers.begin(), breakers.begin() + 256, true), 4) << "single bytes";
  EXPECT_TRUE(dry_breakers(nullptr, 400).empty());
}

TEST(SamplerState, BiasesAndPenaltiesAreOneSumForEachId) {
  SamplingParams p;
  p.logit_bias = {{9, 1.5}, {3, -2}, {9, 0.25}, {4, 7}};
  EXPECT_EQ(SamplerState(p, {}).biases({}),
            (std::vector<std::pair<TokenId, float>>{{3, -2.0f}, {4, 7.0f}, {9, 1.75f}}));
  p.dry_multiplier = 0.5;
  p.dry_base = 2;
  p.dry_allowed_length = 1;
  const std::vector<TokenId> text = {2, 1, 2, 4, 2, 99, 1, 2};  // 2 was followed by 1, 4 and 99
  EXPECT_EQ(SamplerState(p, {}).biases(text),
            (std::vector<std::pair<TokenId, float>>{
                {1, -0.5f}, {3, -2.0f}, {4, 6.0f}, {9, 1.75f}, {99, -0.5f}}));
}

}  // namespace
}  // namespace dsr
