// Chats with models/tiny.
#include "deepseek_run/conversation.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "support/expect_error.h"

namespace dsr {
namespace {

constexpr const char* kTiny = DSR_SOURCE_DIR "/models/tiny";

class ConversationTest : public testing::Test {
 protected:
  explicit ConversationTest(int64_t ctx_size = 0)
      : tokenizer_(Tokenizer::load(kTiny)), engine_(load(ctx_size)) {
    settings_.sampling.temperature = 0;
    settings_.max_new_tokens = 60;
  }
  std::unique_ptr<Engine> load(int64_t ctx_size = 0) const {
    return Engine::create({.model_dir = kTiny,
                           .ctx_size = ctx_size,
                           .cache_type = "f32",
                           .tokenizer = tokenizer_.get(),
                           .warn = {}});
  }
  Conversation chat(const char* format) {
    return Conversation(*engine_, *tokenizer_, ChatFormat::by_name(format));
  }
  // The tokens that one prompt or answer holds in front of the next.
  static int64_t common(const std::vector<TokenId>& a, const std::vector<TokenId>& b) {
    return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
  }
  static std::vector<TokenId> joined(std::vector<TokenId> a, const std::vector<TokenId>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }

  struct Turn {
    std::vector<TokenId> prompt;
    Answer answer;
    int64_t computed, reused;
  };
  Turn ask(Conversation& c, const std::string& user) const {
    const EngineStats before = engine_->stats();
    Turn out;
    out.prompt = c.prompt(user, settings_).ids;
    out.answer = c.ask(user, settings_);
    out.computed = engine_->stats().prompt_tokens_computed - before.prompt_tokens_computed;
    out.reused = engine_->stats().prompt_tokens_reused - before.prompt_tokens_reused;
    return out;
  }

  const std::unique_ptr<Tokenizer> tokenizer_;
  const std::unique_ptr<Engine> engine_;
  ChatSettings settings_;
};

TEST_F(ConversationTest, AnAnswerIsThatOfTheSamePromptAlone) {
  Conversation c = chat("deepseek-v3");
  EXPECT_EQ(c.ask("What is 47 + 38?", settings_).content, "47 + 38 = 85");
  EXPECT_EQ(c.ask("What is 12 + 5?", settings_).content, "12 + 5 = 17");
  const EncodedPrompt prompt = c.prompt("What is 3 + 4?", settings_);
  const Answer next = c.ask("What is 3 + 4?", settings_);

  AnswerRequest alone;
  alone.request.prompt = prompt.ids;
  alone.request.sampling = settings_.sampling;
  alone.request.max_new_tokens = 60;
  const auto fresh = load();
  EXPECT_EQ(run_to_end(*fresh, tokenizer_.get(), alone).ids, next.ids);
}

TEST_F(ConversationTest, WhatTheFormatKeepsIsNotComputedAgain) {
  Conversation c = chat("deepseek-v3");
  const Turn first = ask(c, "What is 47 + 38?");
  EXPECT_EQ(first.reused, 0);
  EXPECT_EQ(first.computed, std::ssize(first.prompt));
  ASSERT_EQ(first.answer.finish, FinishReason::kStop);
  ASSERT_FALSE(first.answer.reasoning.empty());
  const Turn second = ask(c, "What is 12 + 5?");
  // All that was fed and written, reasoning included: the end-of-sequence token that the model
  // chose was never fed.
  const int64_t fed = std::ssize(first.prompt) + std::ssize(first.answer.ids);
  EXPECT_EQ(common(joined(first.prompt, first.answer.ids), second.prompt), fed);
  EXPECT_EQ(second.reused, fed);
  EXPECT_EQ(second.answer.reused_tokens, fed);
  EXPECT_EQ(second.computed, std::ssize(second.prompt) - fed);
}

TEST_F(ConversationTest, R1DropsReasoningAndComputesWhatFollowsIt) {
  Conversation c = chat("deepseek-r1");
  const Turn first = ask(c, "What is 47 + 38?");
  ASSERT_EQ(first.answer.finish, FinishReason::kStop);
  ASSERT_FALSE(first.answer.reasoning.empty());
  const Turn second = ask(c, "What is 12 + 5?");
  // The first prompt ends with "<think>\n", which is gone from the second.
  const int64_t kept = std::ssize(first.prompt) - 2;
  EXPECT_EQ(common(first.prompt, second.prompt), kept);
  EXPECT_EQ(second.reused, kept);
  EXPECT_EQ(second.computed, std::ssize(second.prompt) - kept);
  EXPECT_EQ(c.prompt("x", settings_).text.find("carry"), std::string::npos);
}

TEST_F(ConversationTest, UndoAndAskAgainReuseTheTurnsBefore) {
  Conversation c = chat("deepseek-v3");
  ask(c, "What is 47 + 38?");
  const Turn second = ask(c, "What is 12 + 5?");
  const EngineStats before = engine_->stats();
  const Answer again = c.ask_again(settings_);
  EXPECT_EQ(again.ids, second.answer.ids);
  // The last token of a prompt is always run: it gives the logits.
  EXPECT_EQ(engine_->stats().prompt_tokens_reused - before.prompt_tokens_reused,
            std::ssize(second.prompt) - 1);
  EXPECT_EQ(c.turns().size(), 2u);

  c.undo();
  const Turn other = ask(c, "What day comes after Monday?");
  EXPECT_EQ(other.reused, common(second.prompt, other.prompt));
  EXPECT_EQ(c.turns().back().user, "What day comes after Monday?");
  c.clear();
  EXPECT_EQ(c.n_tokens(settings_), 0);
  c.undo();  // nothing to take back
  EXPECT_TRUE(c.turns().empty());
}

// The speed of a prompt is that of the tokens that were computed.
TEST(ConversationReport, TimingsCountWhatWasComputed) {
  Answer a;
  a.prompt_tokens = 1100;
  a.reused_tokens = 1000;
  a.ids = {1};
  a.first_token_seconds = 0.5;
  EXPECT_EQ(
      timing_line({a}, 1),
      "prompt 1,100 tok (1,000 reused), 200.0 tok/s | answer 1 tok | load 1.0 s | first token "
      "0.50 s");
  EXPECT_EQ(context_use(1900, 2048), "1,900 of 2,048 tokens (92 %)");
  EXPECT_EQ(totals_line({.steps = 1,
                         .prompt_tokens_computed = 1812,
                         .prompt_tokens_reused = 0,
                         .tokens_generated = 214}),
            "prompts 1,812 tok computed, 0 tok reused | answers 214 tok");
}

TEST_F(ConversationTest, ASystemPromptIsInFrontOfAllTurns) {
  Conversation c = chat("deepseek-v3");
  c.set_system("Be brief.");
  EXPECT_NE(c.prompt("hi", settings_).text.find("Be brief.<\uff5cUser\uff5c>hi"),
            std::string::npos);
}

TEST_F(ConversationTest, AnAnswerThatIsStoppedIsKeptAndMarked) {
  Conversation c = chat("deepseek-v3");
  int64_t calls = 0;
  const Answer a =
      c.ask("What is 47 + 38?", settings_, [&](const AnswerPiece&) { return ++calls < 12; });
  EXPECT_EQ(a.finish, FinishReason::kCancelled);
  ASSERT_EQ(c.turns().size(), 1u);
  const ChatTurn& turn = c.turns()[0];
  EXPECT_EQ(turn.finish, FinishReason::kCancelled);
  // It was cut while it reasoned: the block is closed, with a tag that is one.
  EXPECT_TRUE(turn.answer.starts_with("<think>\n" + a.reasoning)) << turn.answer;
  EXPECT_TRUE(turn.answer.ends_with("</think>"));
  ASSERT_EQ(turn.control.size(), 2u);
  const Turn next = ask(c, "What is 12 + 5?");
  EXPECT_GE(next.reused, a.prompt_tokens + std::ssize(a.ids) - 1);
  EXPECT_EQ(std::count(next.prompt.begin(), next.prompt.end(), *tokenizer_->find("</think>")), 1);
}

TEST_F(ConversationTest, InR1AnAnswerThatNeverEndedItsReasoningLeavesNothing) {
  Conversation c = chat("deepseek-r1");
  settings_.max_new_tokens = 4;
  const Answer a = c.ask("What is 47 + 38?", settings_);
  EXPECT_EQ(a.finish, FinishReason::kLength);
  EXPECT_FALSE(a.reasoning.empty());
  EXPECT_EQ(a.content, "");
  const std::string text = c.prompt("hi", settings_).text;
  EXPECT_NE(text.find("<\uff5cAssistant\uff5c><\uff5cend\u2581of\u2581sentence\uff5c>"),
            std::string::npos)
      << text;
}

// The tags that the model wrote are control tokens in later turns, those that it or the user
// spelled are not.
TEST_F(ConversationTest, OnlyTagsThatWereTokensAreTokens) {
  Conversation c = chat("deepseek-v3");
  const TokenId open = *tokenizer_->find("<think>");
  const auto count = [&](const std::string& user) {
    const std::vector<TokenId> ids = c.prompt(user, settings_).ids;
    return std::count(ids.begin(), ids.end(), open);
  };
  EXPECT_EQ(count("<think>"), 0);
  c.set_turns({{"<think>", "<think>x</think> <think>", {{0, 7}, {8, 16}}}});
  EXPECT_EQ(count("<think>"), 1);
  settings_.allow_special = true;
  EXPECT_EQ(count("<think>"), 4);
}

TEST_F(ConversationTest, AStopStringEndsTheMessage) {
  Conversation c = chat("deepseek-v3");
  settings_.stop = {" = "};
  const Answer a = c.ask("What is 47 + 38?", settings_);
  EXPECT_EQ(a.finish, FinishReason::kStop);
  EXPECT_EQ(a.content, "47 + 38");
  EXPECT_TRUE(c.turns()[0].answer.ends_with("</think>\n\n47 + 38"));
  EXPECT_EQ(c.turns()[0].control.size(), 2u);
}

TEST_F(ConversationTest, APieceThatCannotBeWrittenLeavesTheTurnsAlone) {
  Conversation c = chat("deepseek-v3");
  ask(c, "What is 47 + 38?");
  const std::vector<ChatTurn> before = c.turns();
  const auto full = [](const AnswerPiece&) -> bool { throw Error(ErrorKind::kOutput, "full"); };
  EXPECT_EQ(test::error_of([&] { c.ask("hi", settings_, full); }, ErrorKind::kOutput), "full");
  EXPECT_EQ(c.turns(), before);
  EXPECT_EQ(test::error_of([&] { c.ask_again(settings_, full); }, ErrorKind::kOutput), "full");
  EXPECT_EQ(c.turns(), before);
  EXPECT_TRUE(engine_->idle());
}

TEST_F(ConversationTest, InvalidTextIsRefused) {
  Conversation c = chat("deepseek-v3");
  test::error_of([&] { c.ask("a\xff", settings_); }, ErrorKind::kUsage);
  EXPECT_TRUE(c.turns().empty());
}

// What a format writes around an answer and the model writes too is there once.
TEST_F(ConversationTest, FormatsThatWriteASpaceBeforeTheAnswer) {
  settings_.sampling.logit_bias = {{*tokenizer_->find(" the"), 100}};
  settings_.max_new_tokens = 3;
  for (const char* name : {"deepseek-llm", "plain"}) {
    if (std::string(name) == "deepseek-llm" && !tokenizer_->find("Assistant")) continue;
    Conversation c = chat(name);
    const Turn first = ask(c, "hi");
    EXPECT_EQ(first.answer.content, " the the the");
    EXPECT_EQ(c.turns()[0].answer, "the the the");
    const std::string text = c.prompt("again", settings_).text;
    EXPECT_NE(text.find("Assistant: the the the"), std::string::npos) << text;
    // The last token of an answer that is cut short is never run.
    EXPECT_EQ(ask(c, "again").reused, std::ssize(first.prompt) + 2) << name;
  }
}

TEST_F(ConversationTest, FormatsThatWriteLineBreaksAfterTheAnswer) {
  settings_.sampling.logit_bias = {{*tokenizer_->find("\n"), 100}};
  settings_.max_new_tokens = 3;
  Conversation c = chat("plain");
  EXPECT_EQ(ask(c, "hi").answer.content, "\n\n\n");
  EXPECT_EQ(c.turns()[0].answer, "\n\n\n");  // "Assistant: " has a space that it did not write
  Conversation v3 = chat("deepseek-v3");
  ask(v3, "hi");
  EXPECT_EQ(v3.turns()[0].answer, "\n\n\n");  // the format adds none: these are the model's
}

class SmallContext : public ConversationTest {
 protected:
  SmallContext() : ConversationTest(64) {}
};

TEST_F(SmallContext, AMessageThatDoesNotFitIsRefusedWithTheNumbers) {
  Conversation c = chat("deepseek-v3");
  settings_.max_new_tokens = 10;
  ask(c, "What is 47 + 38?");
  const std::string long_text(200, 'z');
  const int64_t n = std::ssize(c.prompt(long_text, settings_).ids);
  EXPECT_EQ(test::error_of([&] { c.ask(long_text, settings_); }, ErrorKind::kUsage),
            "the conversation would be " + std::to_string(n) +
                " tokens, and the context holds 64: this message was not sent");
  EXPECT_EQ(c.turns().size(), 1u);
}

TEST_F(SmallContext, TheAnswerEndsWithTheContext) {
  Conversation c = chat("deepseek-v3");
  settings_.max_new_tokens = 1000;
  settings_.sampling.logit_bias = {{*tokenizer_->find(" the"), 100}};
  const Answer a = c.ask("hi", settings_);
  EXPECT_EQ(a.finish, FinishReason::kLength);
  EXPECT_EQ(a.prompt_tokens + std::ssize(a.ids), 64);
  EXPECT_EQ(c.n_tokens(settings_), 64);
  test::error_of([&] { c.ask("more", settings_); }, ErrorKind::kUsage);
  c.undo();
  EXPECT_EQ(c.ask("hi", settings_).ids, a.ids);
}

}  // namespace
}  // namespace dsr
