#include "deepseek_run/tokenize.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "text/text_fixture.h"

namespace dsr {
namespace {

TEST(Tokenize, Reports) {
  const auto tokenizer = test::load_fixture();
  const std::vector<TokenId> ids = tokenize(*tokenizer, "hello\n\xC3\xA9<think>", false);
  EXPECT_EQ(ids, (std::vector<TokenId>{259, '\n', 0xC3, 0xA9, 304}));
  EXPECT_EQ(tokens_text(*tokenizer, ids),
            "259\t\"hello\"\n10\t\"\\x0a\"\n195\t\"\\xc3\"\n169\t\"\\xa9\"\n304\t\"<think>\"\n");
  EXPECT_EQ(tokens_json(*tokenizer, {259, 10}),
            R"({"count":2,"ids":[259,10],"pieces":["hello","\n"]})");
  EXPECT_EQ(prompt_json("a\"b", {97}), R"({"text":"a\"b","ids":[97]})");
}

TEST(Tokenize, Bos) {
  const auto tokenizer = test::load_text(test::fixture_tokenizer().dump(),
                                         "{\"bos_token\": \"<｜begin▁of▁sentence｜>\"}");
  EXPECT_EQ(tokenize(*tokenizer, "aa", true), (std::vector<TokenId>{300, 261}));
  EXPECT_EQ(tokenize(*tokenizer, "<｜begin▁of▁sentence｜>aa", true),
            (std::vector<TokenId>{300, 261}));
  const auto none = test::load_fixture();
  EXPECT_EQ(test::error_of([&] { tokenize(*none, "a", true); }, ErrorKind::kUsage),
            "the tokenizer has no bos_token (tokenizer_config.json)");
}

TEST(Tokenize, Lines) {
  const auto tokenizer = test::load_fixture();
  const auto line = [&](std::string_view text) {
    return tokenize_json_line(*tokenizer, text, false);
  };
  EXPECT_EQ(line(R"({"text":"hello"})").json, R"({"ids":[259]})");
  EXPECT_TRUE(line(R"({"text":"hello"})").ok);
  for (const char* bad : {"", "x", "[]", "{}", R"({"text":1})", R"({"text":"a"} x)"}) {
    const TokenizedLine result = line(bad);
    EXPECT_FALSE(result.ok) << bad;
    EXPECT_TRUE(result.json.starts_with(R"({"error":")")) << result.json;
  }
}

}  // namespace
}  // namespace dsr
