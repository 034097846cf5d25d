#include "app/text_stream.h"

#include <gtest/gtest.h>

#include <random>

#include "support/expect_error.h"
#include "text/text_fixture.h"

namespace dsr {
namespace {

constexpr TokenId kBos = 300, kThink = 304, kEndThink = 305;

struct Result {
  std::string content, reasoning;
  int64_t pieces = 0;
  bool stopped = false;
};

class TextStreamTest : public testing::Test {
 protected:
  Result run(const std::vector<TokenId>& ids, const AnswerRequest& request) {
    Result out;
    TextStream stream(*tokenizer_, request, [&](const AnswerPiece& p) {
      EXPECT_FALSE(p.text.empty());
      (p.reasoning ? out.reasoning : out.content) += p.text;
      ++out.pieces;
    });
    for (const TokenId id : ids) {
      stream.push(id);
      if (stream.stopped()) break;
    }
    stream.finish();
    out.stopped = stream.stopped();
    return out;
  }
  // One token for each byte.
  static std::vector<TokenId> bytes(std::string_view text) {
    std::vector<TokenId> out;
    for (const char c : text) out.push_back(static_cast<unsigned char>(c));
    return out;
  }

  const std::unique_ptr<Tokenizer> tokenizer_ = test::load_fixture();
};

std::vector<TokenId> joined(std::initializer_list<std::vector<TokenId>> parts) {
  std::vector<TokenId> out;
  for (const auto& part : parts) out.insert(out.end(), part.begin(), part.end());
  return out;
}

TEST_F(TextStreamTest, SpecialTokensAreNoText) {
  const auto ids = joined({{kBos}, bytes("a"), {301, kThink}, bytes("b")});
  EXPECT_EQ(run(ids, {}).content, "a<think>b");
}

TEST_F(TextStreamTest, SplitsReasoning) {
  const auto ids = joined({{kThink}, bytes("\nwhy\n"), {kEndThink}, bytes("\n\nso")});
  const Result split = run(ids, {.split_reasoning = true});
  EXPECT_EQ(split.reasoning, "why");
  EXPECT_EQ(split.content, "so");
  EXPECT_EQ(run(ids, {}).content, "<think>\nwhy\n</think>\n\nso");
  const auto open = joined({bytes("why"), {kEndThink}, bytes("so")});
  const Result started = run(open, {.split_reasoning = true, .starts_in_reasoning = true});
  EXPECT_EQ(started.reasoning, "why");
  EXPECT_EQ(started.content, "so");
}

TEST_F(TextStreamTest, StopStringsEndReasoningToo) {
  const auto ids = joined({{kThink}, bytes("one two"), {kEndThink}, bytes("three")});
  AnswerRequest request{.stop = {"two"}, .split_reasoning = true};
  Result r = run(ids, request);
  EXPECT_TRUE(r.stopped);
  EXPECT_EQ(r.reasoning, "one ");
  EXPECT_EQ(r.content, "");
  request.stop = {"</think>"};
  r = run(ids, request);
  EXPECT_EQ(r.reasoning, "one two");
  EXPECT_EQ(r.content, "");
  request.stop = {"hr"};
  r = run(ids, request);
  EXPECT_EQ(r.reasoning, "one two");
  EXPECT_EQ(r.content, "t");
}

TEST_F(TextStreamTest, WhatWasHeldBackComesAtTheEnd) {
  const Result r = run(bytes("abc\xC3"), {.stop = {"abcd"}});
  EXPECT_FALSE(r.stopped);
  EXPECT_EQ(r.content, "abc\uFFFD");
  // An unfinished character does not hide a stop string that it completes.
  EXPECT_EQ(run(bytes("ab\xC3"), {.stop = {"b\uFFFD"}}).content, "a");
}

TEST_F(TextStreamTest, StopStringsInsideCharacters) {
  // The euro sign is E2 82 AC, one token for each byte.
  EXPECT_EQ(run(bytes("5 \u20AC!"), {.stop = {"\u20AC"}}).content, "5 ");
  EXPECT_EQ(run(bytes("5 \u20AD!"), {.stop = {"\u20AC"}}).content, "5 \u20AD!");
  EXPECT_EQ(test::error_of([&] { run({}, {.stop = {""}}); }, ErrorKind::kUsage),
            "a stop string is empty");
}

// Whatever the tokens are, the text is that of the whole sequence, cut at the stop string.
TEST_F(TextStreamTest, AgreesWithDecodingAtOnce) {
  std::mt19937 random(3);
  for (int round = 0; round < 3'000; ++round) {
    std::vector<TokenId> ids(random() % 30);
    for (TokenId& id : ids) id = static_cast<TokenId>('a' + random() % 2);
    std::string stop;
    for (uint64_t n = 1 + random() % 4; n > 0; --n) stop += static_cast<char>('a' + random() % 2);
    const std::string text = tokenizer_->decode(ids);
    ASSERT_EQ(run(ids, {.stop = {stop}}).content, text.substr(0, text.find(stop)));
  }
}

}  // namespace
}  // namespace dsr
