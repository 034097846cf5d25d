#include "sampling/loop_guard.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <string>

#include "text/text_fixture.h"

namespace dsr {
namespace {

// The definition: for every period, how long the end of the text repeats itself.
bool plain_loop(const std::vector<TokenId>& text, const LoopLimits& limits) {
  const auto n = static_cast<int32_t>(text.size());
  const auto at = [&](int32_t i) { return text[static_cast<size_t>(i)]; };
  for (int32_t period = 1; period <= limits.max_period; ++period) {
    int32_t length = std::min(n, period);  // the last copy, whatever it is
    while (length < n && at(n - 1 - (length - period)) == at(n - 1 - length)) ++length;
    if (length >= limits.min_copies * period && length >= limits.min_tokens) return true;
  }
  return false;
}

// The token with which the guard ends the text, counted from 1; 0: it lets it pass.
int64_t ends_at(const std::vector<TokenId>& text, const LoopLimits& limits = {}) {
  LoopGuard guard(limits);
  for (size_t i = 0; i < text.size(); ++i)
    if (guard.push(text[i])) return static_cast<int64_t>(i) + 1;
  return 0;
}

std::vector<TokenId> copies(const std::vector<TokenId>& of, int64_t n) {
  std::vector<TokenId> out;
  for (int64_t i = 0; i < n; ++i) out.insert(out.end(), of.begin(), of.end());
  return out;
}

std::vector<TokenId> distinct(int64_t n, TokenId first = 0) {
  std::vector<TokenId> out;
  for (int64_t i = 0; i < n; ++i) out.push_back(first + static_cast<TokenId>(i));
  return out;
}

TEST(LoopGuard, EndsWithTheTokenThatCompletesALoop) {
  EXPECT_EQ(ends_at(copies({5}, 2000)), 1024);
  EXPECT_EQ(ends_at(copies({5, 6}, 2000)), 1024);
  EXPECT_EQ(ends_at(copies(distinct(7), 2000)), 1024);
  EXPECT_EQ(ends_at(copies(distinct(256), 20)), 1024);
  EXPECT_EQ(ends_at(copies(distinct(257), 20)), 4 * 257);
  EXPECT_EQ(ends_at(copies(distinct(1024), 20)), 4 * 1024);
  EXPECT_EQ(ends_at(copies(distinct(1025), 20)), 0) << "longer than it looks";
  EXPECT_EQ(ends_at(copies({5}, 1023)), 0);
  EXPECT_EQ(ends_at(copies(distinct(1024), 4)), 4 * 1024);
  std::vector<TokenId> late = distinct(10'000, 100);
  const std::vector<TokenId> loop = copies({5, 6, 7}, 1000);
  late.insert(late.end(), loop.begin(), loop.end());
  EXPECT_EQ(ends_at(late), 10'000 + 1024);
}

TEST(LoopGuard, OneOtherTokenStartsItAnew) {
  std::vector<TokenId> text = copies({5}, 1023);
  text.push_back(6);
  const std::vector<TokenId> more = copies({5}, 1023);
  text.insert(text.end(), more.begin(), more.end());
  EXPECT_EQ(ends_at(text), 0);
}

TEST(LoopGuard, AgreesWithTheDefinition) {
  std::mt19937 random(9);
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
  int64_t ended = 0, passed = 0;
  for (int round = 0; round < 1500; ++round) {
    const LoopLimits limits{.max_period = 1 + static_cast<int32_t>(below(12)),
                            .min_copies = 2 + static_cast<int32_t>(below(3)),
                            .min_tokens = 1 + static_cast<int32_t>(below(40))};
    std::vector<TokenId> text;
    LoopGuard guard(limits);
    bool any = false;
    while (text.size() < 200) {
      // Repeats itself for a while, then says something else.
      const size_t distance = 1 + below(15), n = below(50);
      if (distance <= text.size() && below(3) == 0)
        for (size_t i = 0; i < n; ++i) text.push_back(text[text.size() - distance]);
      else
        text.push_back(static_cast<TokenId>(below(3)));
    }
    for (size_t n = 1; n <= text.size(); ++n) {
      const std::vector<TokenId> so_far(text.begin(), text.begin() + static_cast<long>(n));
      const bool want = plain_loop(so_far, limits);
      ASSERT_EQ(guard.push(text[n - 1]), want) << "round " << round << ", token " << n;
      any |= want;
    }
    (any ? ended : passed) += 1;
  }
  EXPECT_GT(ended, 100);
  EXPECT_GT(passed, 100);
}

// Texts that people ask for, a token a byte: the finest there is, so that what repeats does so for
// as many tokens as it can.
class OrdinaryText : public testing::Test {
 protected:
  int64_t ends(const std::string& text) const { return ends_at(tokenizer_->encode(text)); }
  const std::unique_ptr<Tokenizer> tokenizer_ = test::load_fixture();
};

TEST_F(OrdinaryText, ListsTablesAndCodePass) {
  std::string counting, list, table, code, hex, json;
  for (int i = 0; i < 3000; ++i) {
    const std::string n = std::to_string(i);
    counting += n + "\n";
    list += n + ". And the next item on the list is the same as before, but for its number.\n";
    table += "| " + n + " |     0 |     0 |     0 |     0 |\n";
    code += "        case " + n + ":\n            return handle(state, event);\n";
    hex += n + "0: 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00\n";
    json += "{\"id\": " + n + ", \"value\": null, \"tags\": []},\n";
  }
  for (const std::string& text : {counting, list, table, code, hex, json})
    EXPECT_EQ(ends(text), 0) << text.substr(0, 80);
}

TEST_F(OrdinaryText, RulesRowsOfZerosAndRefrainsPass) {
  EXPECT_EQ(ends(std::string(1000, '-') + "\n" + std::string(1000, '=') + "\n"), 0);
  EXPECT_EQ(ends("if (x) {\n" + std::string(800, ' ') + "y = 1;\n}\n"), 0);
  std::string zeros = "int table[256] = {";
  for (int i = 0; i < 256; ++i) zeros += "0, ";
  EXPECT_EQ(ends(zeros + "};"), 0);
  std::string matrix;
  for (int i = 0; i < 8; ++i) matrix += "[0, 0, 0, 0, 0, 0, 0, 0],\n";
  EXPECT_EQ(ends(matrix), 0);
  const std::string refrain =
      "Row, row, row your boat, gently down the stream.\n"
      "Merrily, merrily, merrily, merrily, life is but a dream.\n";
  std::string song;
  for (int verse = 0; verse < 40; ++verse)
    song += refrain + refrain + refrain + "Verse " + std::to_string(verse) + "\n";
  EXPECT_EQ(ends(song), 0);
}

TEST_F(OrdinaryText, ASentenceOverAndOverDoesNot) {
  std::string text = "The answer is 42. ";
  for (int i = 0; i < 200; ++i) text += "Wait, let me check that again. ";
  EXPECT_GE(ends(text), 1024);
  EXPECT_LE(ends(text), 1024 + 18);
}

// Random text has no loops, whatever its alphabet; loops in it are found wherever they begin.
TEST(LoopGuard, PropertyARandomTextPassesAndALoopAfterItEnds) {
  std::mt19937 random(21);
  for (int round = 0; round < 60; ++round) {
    const size_t letters = 2 + random() % 50;
    std::vector<TokenId> text;
    for (size_t n = random() % 9000; n > 0; --n)
      text.push_back(static_cast<TokenId>(random() % letters));
    ASSERT_EQ(ends_at(text), 0);
    const auto period = static_cast<int64_t>(1 + random() % 1024);
    const auto before = static_cast<int64_t>(text.size());
    const std::vector<TokenId> loop = copies(distinct(period, 1000), 1024);
    text.insert(text.end(), loop.begin(), loop.begin() + 4 * 1024);
    ASSERT_EQ(ends_at(text), before + std::max<int64_t>(1024, 4 * period));
  }
}

TEST(LoopGuard, CostsLittle) {
  LoopGuard guard;
  constexpr int kTokens = 100'000;
  const auto start = std::chrono::steady_clock::now();
  bool any = false;
  for (int i = 0; i < kTokens; ++i) any |= guard.push(i % 1023 == 0 ? i : i % 7);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_FALSE(any);
  RecordProperty("us_per_token", std::to_string(seconds.count() * 1e6 / kTokens));
  EXPECT_LT(seconds.count(), 10);
}

}  // namespace
}  // namespace dsr
