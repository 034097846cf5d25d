#include <gtest/gtest.h>

#include <limits>

#include "base/json.h"
#include "deepseek_run/answer.h"
#include "text/text_fixture.h"

namespace dsr {
namespace {

Answer example() {
  return {.content = "so \"it\" is\n\x01",
          .reasoning = "why",
          .ids = {5, 6, 7},
          .finish = FinishReason::kStop,
          .prompt_tokens = 2,
          .seed = 9,
          .first_token_seconds = 0.25,
          .total_seconds = 0.75};
}

TEST(AnswerJson, Chat) {
  EXPECT_EQ(answer_json({example()}, {0, 4}, {.model = "tiny", .id = "chatcmpl-1"}),
            R"({"id":"chatcmpl-1","object":"chat.completion","model":"tiny","choices":[)"
            R"({"index":0,"message":{"role":"assistant","content":"so \"it\" is\n\u0001",)"
            R"("reasoning_content":"why"},"ids":[5,6,7],"seed":9,"finish_reason":"stop"}],)"
            R"("usage":{"prompt_tokens":2,"completion_tokens":3,"total_tokens":5},)"
            R"("prompt_ids":[0,4],)"
            R"("timings":[{"first_token_seconds":0.25,"total_seconds":0.75}]})");
}

TEST(AnswerJson, TextAndSeveralAnswers) {
  Answer second = example();
  second.reasoning = "";
  second.content = "b";
  second.finish = FinishReason::kLength;
  second.seed = std::numeric_limits<uint64_t>::max();
  EXPECT_EQ(
      answer_json({example(), second}, {},
                  {.model = "m",
                   .id = "cmpl-1",
                   .chat = false,
                   .separate_reasoning = false,
                   .timings = false}),
      R"({"id":"cmpl-1","object":"text_completion","model":"m","choices":[)"
      R"({"index":0,"text":"<think>\nwhy\n</think>\n\nso \"it\" is\n\u0001","ids":[5,6,7],)"
      R"("seed":9,"finish_reason":"stop"},)"
      R"({"index":1,"text":"b","ids":[5,6,7],"seed":"18446744073709551615",)"
      R"("finish_reason":"length"}],)"
      R"("usage":{"prompt_tokens":0,"completion_tokens":6,"total_tokens":6},"prompt_ids":[]})");
}

TEST(AnswerJson, ReasoningBesideText) {
  const std::string json = answer_json({example()}, {}, {.chat = false, .timings = false});
  EXPECT_NE(json.find(R"("text":"so \"it\" is\n\u0001","reasoning_content":"why","ids")"),
            json.npos)
      << json;
}

TEST(AnswerJson, ReasoningInsideContent) {
  const std::string json =
      answer_json({example()}, {}, {.separate_reasoning = false, .timings = false});
  EXPECT_NE(json.find(R"("content":"<think>\nwhy\n</think>\n\nso)"), json.npos) << json;
  EXPECT_EQ(json.find("reasoning_content"), json.npos);
}

// "é!", as bytes; 304 is <think>, which is text, and 300 the BOS, which is not.
Answer with_log_probs() {
  Answer a;
  a.content = "\xC3\xA9!";
  a.ids = {300, 0xC3, 0xA9, '!', 304};
  a.finish = FinishReason::kStop;
  for (size_t i = 0; i < a.ids.size(); ++i)
    a.log_probs.push_back({-0.3f - static_cast<float>(i), {{'x', -0.1f}, {0xC3, -0.3f}}});
  return a;
}

TEST(AnswerJson, LogProbsOfAChat) {
  const std::unique_ptr<Tokenizer> tokenizer = test::load_fixture();
  const Json json = parse_json(
      answer_json({with_log_probs()}, {}, {.log_probs = true, .tokenizer = tokenizer.get()}),
      "test");
  const Json::Array& content =
      json.find("choices")->as_array()[0].find("logprobs")->find("content")->as_array();
  ASSERT_EQ(content.size(), 5u) << "one for each id";
  EXPECT_EQ(content[1].dump(), R"({"token":"�","logprob":-1.3,"bytes":[195],"top_logprobs":[)"
                               R"({"token":"x","logprob":-0.1,"bytes":[120]},)"
                               R"({"token":"�","logprob":-0.3,"bytes":[195]}]})");
  EXPECT_EQ(content[3].find("token")->as_string(), "!");
  EXPECT_EQ(content[4].find("token")->as_string(), "<think>");
}

TEST(AnswerJson, LogProbsOfAText) {
  const std::unique_ptr<Tokenizer> tokenizer = test::load_fixture();
  Answer a = with_log_probs();
  a.ids.erase(a.ids.begin());
  a.log_probs.pop_back();
  const Json json = parse_json(
      answer_json({a}, {}, {.chat = false, .log_probs = true, .tokenizer = tokenizer.get()}),
      "test");
  EXPECT_EQ(json.find("choices")->as_array()[0].find("logprobs")->dump(),
            R"({"tokens":["bytes:\\xc3","bytes:\\xa9","!","<think>"],)"
            R"("token_logprobs":[-0.3,-1.3,-2.3,-3.3],)"
            R"("top_logprobs":[{"x":-0.1,"bytes:\\xc3":-0.3},)"
            R"({"x":-0.1,"bytes:\\xc3":-0.3,"bytes:\\xa9":-1.3},)"
            R"({"x":-0.1,"bytes:\\xc3":-0.3,"!":-2.3},)"
            R"({"x":-0.1,"bytes:\\xc3":-0.3,"<think>":-3.3}],"text_offset":[0,0,1,2]})");
}

TEST(AnswerJson, LogProbsWithoutATokenizer) {
  Answer a = with_log_probs();
  a.ids.resize(1);
  a.log_probs.resize(1);
  a.log_probs[0].top.clear();
  const std::string chat = answer_json({a}, {}, {.log_probs = true});
  EXPECT_NE(chat.find(R"({"token":"","logprob":-0.3,"bytes":null,"top_logprobs":[]})"), chat.npos)
      << chat;
  const std::string text = answer_json({a}, {}, {.chat = false, .log_probs = true});
  EXPECT_NE(text.find(R"("logprobs":{"tokens":["300"],"token_logprobs":[-0.3],)"
                      R"("top_logprobs":[{"300":-0.3}],"text_offset":[]})"),
            text.npos)
      << text;
}

TEST(TimingLine, AsCliMdShowsIt) {
  Answer a;
  a.prompt_tokens = 812;
  a.ids.assign(214, 1);
  a.first_token_seconds = 812 / 11204.0;
  a.total_seconds = a.first_token_seconds + 213 / 231.0;
  EXPECT_EQ(timing_line(a, 1.9),
            "prompt 812 tok, 11,204 tok/s | answer 214 tok, 231.0 tok/s | load 1.9 s | "
            "first token 0.07 s");
  a.ids.assign(1, 1);
  EXPECT_EQ(timing_line(a, 0),
            "prompt 812 tok, 11,204 tok/s | answer 1 tok | load 0.0 s | first token 0.07 s");
  a.ids.clear();
  EXPECT_EQ(timing_line(a, 0), "prompt 812 tok | answer 0 tok | load 0.0 s");
}

// Tokens are summed; the time is that of the answer that took longest.
TEST(TimingLine, SumsSeveralAnswers) {
  Answer a;
  a.prompt_tokens = 10;
  a.ids.assign(21, 1);
  a.first_token_seconds = 0.5;
  a.total_seconds = 1.5;
  Answer b = a;
  b.ids.assign(41, 1);
  b.total_seconds = 2.5;
  EXPECT_EQ(
      timing_line({a, b}, 1),
      "prompt 2 x 10 tok, 40.0 tok/s | 2 answers 62 tok, 30.0 tok/s | load 1.0 s | first token "
      "0.50 s");
}

}  // namespace
}  // namespace dsr
