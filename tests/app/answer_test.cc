#include "deepseek_run/answer.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "support/tiny_checkpoint.h"
#include "text/text_fixture.h"

namespace dsr {
namespace {

// A random model whose ids below 224 are, to the fixture's tokenizer, single bytes.
class AnswerTest : public testing::Test {
 protected:
  AnswerTest() {
    test::TinyCheckpoint("v3-bf16").write(directory_.string());
    engine_ =
        Engine::create({.model_dir = directory_.string(), .max_seqs = 2, .chunk = 4, .warn = {}});
  }
  // Says the byte `c` until something ends it.
  static AnswerRequest say(char c, int64_t n) {
    AnswerRequest out;
    out.request.prompt = {3, 4, 5, 6, 7, 8, 9, 10, 11};
    out.request.max_new_tokens = n;
    out.request.sampling.temperature = 0;
    out.request.sampling.logit_bias = {{static_cast<unsigned char>(c), 100}};
    out.request.sampling.seed = 77;
    return out;
  }

  const test::TempDir directory_;
  const std::unique_ptr<Tokenizer> tokenizer_ = test::load_fixture();
  std::unique_ptr<Engine> engine_;
};

TEST_F(AnswerTest, RunsToTheLastToken) {
  std::string streamed;
  int64_t calls = 0;
  const Answer a =
      run_to_end(*engine_, tokenizer_.get(), say('x', 5), [&](const AnswerPiece& piece) {
        streamed += piece.text;
        ++calls;
        return true;
      });
  EXPECT_EQ(a.content, "xxxxx");
  EXPECT_EQ(streamed, a.content);
  EXPECT_EQ(a.ids, std::vector<TokenId>(5, 'x'));
  EXPECT_EQ(a.finish, FinishReason::kLength);
  EXPECT_EQ(a.prompt_tokens, 9);
  EXPECT_EQ(a.seed, 77u);
  EXPECT_GT(a.first_token_seconds, 0);
  EXPECT_GE(a.total_seconds, a.first_token_seconds);
  // The prompt takes three steps of at most four tokens, and each of them could be interrupted.
  EXPECT_GE(calls, 3 + 4);
  EXPECT_TRUE(engine_->idle());
}

TEST_F(AnswerTest, WithoutATokenizerThereAreIds) {
  const Answer a = run_to_end(*engine_, nullptr, say('x', 3));
  EXPECT_EQ(a.content, "");
  EXPECT_EQ(a.ids, std::vector<TokenId>(3, 'x'));
  AnswerRequest with_stop = say('x', 3);
  with_stop.stop = {"x"};
  EXPECT_EQ(test::error_of([&] { run_to_end(*engine_, nullptr, with_stop); }, ErrorKind::kUsage),
            "stop strings need a tokenizer, and the model has no tokenizer.json");
}

TEST_F(AnswerTest, AStopStringEndsTheRequest) {
  AnswerRequest request = say('x', 50);
  request.stop = {"xxx"};
  const Answer a = run_to_end(*engine_, tokenizer_.get(), request);
  EXPECT_EQ(a.content, "");
  EXPECT_EQ(a.ids.size(), 3u);
  EXPECT_EQ(a.finish, FinishReason::kStop);
  EXPECT_TRUE(engine_->idle());
  EXPECT_LE(engine_->stats().tokens_generated, 4);
}

TEST_F(AnswerTest, TheLastTokenMayCompleteAStopString) {
  AnswerRequest request = say('x', 3);
  request.stop = {"xxx"};
  EXPECT_EQ(run_to_end(*engine_, tokenizer_.get(), request).finish, FinishReason::kStop);
}

TEST_F(AnswerTest, TheCallerMayEndIt) {
  AnswerRequest request = say('x', 50);
  request.stop = {"xxxxxxxxxx"};  // the text so far is held back
  std::string streamed;
  int64_t calls = 0;
  const Answer a = run_to_end(*engine_, tokenizer_.get(), request, [&](const AnswerPiece& piece) {
    streamed += piece.text;
    return ++calls < 8;
  });
  EXPECT_EQ(a.finish, FinishReason::kCancelled);
  EXPECT_EQ(a.content, std::string(a.ids.size(), 'x'));
  EXPECT_GT(a.ids.size(), 2u);
  EXPECT_EQ(streamed, a.content);
  EXPECT_TRUE(engine_->idle());
}

TEST_F(AnswerTest, ALongPromptCanBeInterrupted) {
  AnswerRequest request = say('x', 5);
  request.request.prompt.assign(100, 3);
  const Answer a =
      run_to_end(*engine_, tokenizer_.get(), request, [](const AnswerPiece&) { return false; });
  EXPECT_EQ(a.finish, FinishReason::kCancelled);
  EXPECT_TRUE(a.ids.empty());
  EXPECT_LE(engine_->stats().prompt_tokens_computed, 8);
}

TEST_F(AnswerTest, ACallerThatThrowsLeavesTheEngineUsable) {
  const auto thrower = [](const AnswerPiece&) -> bool { throw Error(ErrorKind::kOutput, "full"); };
  EXPECT_EQ(test::error_of([&] { run_to_end(*engine_, tokenizer_.get(), say('x', 50), thrower); },
                           ErrorKind::kOutput),
            "full");
  EXPECT_EQ(run_to_end(*engine_, tokenizer_.get(), say('y', 2)).content, "yy");
  EXPECT_TRUE(engine_->idle());
}

TEST_F(AnswerTest, ANeighbourDoesNotMatter) {
  const Answer alone = run_to_end(*engine_, tokenizer_.get(), say('x', 4));
  engine_->submit(say('z', 20).request);
  const Answer beside = run_to_end(*engine_, tokenizer_.get(), say('x', 4));
  EXPECT_EQ(beside.ids, alone.ids);
  EXPECT_FALSE(engine_->idle());
}

}  // namespace
}  // namespace dsr
