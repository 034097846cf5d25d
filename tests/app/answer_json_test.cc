#include <gtest/gtest.h>

#include <limits>

#include "deepseek_run/answer.h"

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

}  // namespace
}  // namespace dsr
