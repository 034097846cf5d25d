// Tokenizers and chat formats under hostile files and hostile users: rows F14, F16 and U1 to U3 of
// hostile.md. (F15 is in pcre2_hostile_test.cc; through the program,
// tests/tools/text_hostile_test.py.)
#include <gtest/gtest.h>

#include <ctime>
#include <functional>

#include "base/rng.h"
#include "deepseek_run/chat.h"
#include "deepseek_run/tokenize.h"
#include "text/text_fixture.h"

namespace dsr {
namespace {

using Ids = std::vector<TokenId>;

#ifdef DSR_SANITIZED
constexpr double kSlower = 20;
#else
constexpr double kSlower = 1;
#endif

double seconds_of(const std::function<void()>& run) {
  const std::clock_t start = std::clock();
  run();
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

std::string fixture_with(std::string_view from, std::string_view to) {
  return test::replaced(test::fixture_tokenizer().dump(), from, to);
}

// F14. Every file is refused in a sentence, quickly, or loads and encodes as it says.
TEST(HostileTokenizer, FilesAreRefusedInASentence) {
  const std::string json = test::fixture_tokenizer().dump();
  std::vector<std::string> bad = {
      "",
      "{",
      "[]",
      "null",
      "{}",
      R"({"model":[]})",
      std::string(1000, '['),
      json + "x",
      json.substr(0, json.size() / 2),
      "\xef\xbb\xbf" + json.substr(1),
      fixture_with(R"("vocab":{)", R"("vocab":{"q1":2147483648,)"),
      fixture_with(R"("vocab":{)", R"("vocab":{"q1":9223372036854775808,)"),
      fixture_with(R"("vocab":{)", R"("vocab":{"q1":true,)"),
      fixture_with(R"("vocab":{)", R"("vocab":{"q1":2097152,)"),
      fixture_with(R"("he":256)", R"("he":257)"),
      fixture_with(R"("he":256)", R"("he":256,"he":256)"),
      fixture_with(R"("h e")", R"("no such")"),
      fixture_with(R"("h e")", R"("he")"),
      fixture_with(R"("h e")", R"({"h":"e"})"),
      fixture_with("<thinking>", ""),
      fixture_with(R"("id":307)", R"("id":-1)"),
      fixture_with(R"("id":307)", R"("id":1e300)"),
      fixture_with(R"("type":"BPE")", R"("type":"WordPiece")"),
      fixture_with(R"({"added_tokens")", R"({"normalizer":{"type":"Replace"},"added_tokens")"),
      fixture_with(R"({"added_tokens")", R"({"normalizer":{},"added_tokens")"),
      fixture_with(R"("type":"ByteLevel")", R"("type":"Metaspace")"),
      fixture_with(R"("behavior":"Isolated","invert":false},{"type":"ByteLevel")",
                   R"("behavior":"Isolated","invert":true},{"type":"ByteLevel")"),
      fixture_with(R"(\\p{N}{1,3})", "(a"),
      fixture_with(R"(\\p{N}{1,3})", std::string(1 << 17, 'a')),
      fixture_with(R"(\\p{N}{1,3})", std::string(100'000, '(')),
  };
  for (const std::string& text : bad) {
    const double seconds = seconds_of([&] {
      try {
        test::load_text(text);
        ADD_FAILURE() << quoted(text);
      } catch (const Error& e) {
        EXPECT_EQ(e.kind(), ErrorKind::kModel) << e.what();
        EXPECT_LT(std::string(e.what()).size(), 1000u) << e.what();
      }
    });
    EXPECT_LT(seconds, 1 * kSlower) << quoted(text);
  }
}

TEST(HostileTokenizer, MergesThatEatThemselvesEnd) {
  std::string json = fixture_with(R"("h e")", R"("h e","a aa","aa a","aa aa","aaa a","a aaa")");
  json = test::replaced(json, R"("vocab":{)", R"("vocab":{"aaa":400,"aaaa":401,)");
  const auto t = test::load_text(json);
  const std::string text(1 << 20, 'a');
  EXPECT_LT(seconds_of([&] { EXPECT_EQ(t->decode(t->encode(text)), text); }), 1 * kSlower);
}

// Tokens that all begin alike: the search for one must not depend on how many there are.
TEST(HostileTokenizer, ManyAddedTokensAreFoundQuickly) {
  std::string added;
  for (int i = 0; i < 60'000; ++i)
    added += str(R"({"id":)", 400 + i, R"(,"content":"<<<<<<<<<<<<<<<<)", 100'000 + i, R"(>"},)");
  const auto t =
      test::load_text(fixture_with(R"("added_tokens":[)", R"("added_tokens":[)" + added));
  const std::string text(1 << 18, '<');
  EXPECT_LT(seconds_of([&] { EXPECT_EQ(t->encode(text).size(), text.size()); }), 5 * kSlower);
  EXPECT_EQ(t->encode("<<<<<<<<<<<<<<<<<159999>"), (Ids{'<', 60'399}));
}

// F16. A template is searched for words; nothing in it runs.
TEST(HostileTemplate, IsNeverExecuted) {
  const std::string evil[] = {"{% for i in range(10**9) %}x{% endfor %}",
                              "{{ ''.__class__.__mro__[1].__subclasses__() }}",
                              "{% include '/etc/passwd' %}",
                              std::string(1 << 20, '{'),
                              "{{ 10**10**10 }}",
                              "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
                              std::string(1000, '\x1b')};
  for (const std::string& text : evil) {
    Json config = Json::object();
    config.set("chat_template", text);
    const auto t = test::load_text(test::fixture_tokenizer().dump(), config.dump());
    const double seconds = seconds_of([&] {
      try {
        ChatFormat::detect("DeepseekV3ForCausalLM", *t);
        ADD_FAILURE() << quoted(text);
      } catch (const Error& e) {
        EXPECT_EQ(e.kind(), ErrorKind::kModel);
        EXPECT_NE(std::string(e.what()).find("--chat-format"), std::string::npos) << e.what();
      }
    });
    EXPECT_LT(seconds, 1 * kSlower);
  }
}

// U1.
TEST(HostileText, InvalidUtf8IsNamedByItsOffset) {
  const auto t = test::load_fixture();
  const std::pair<std::string, int> cases[] = {{"\xff", 0},
                                               {"a\x80", 1},
                                               {"ab\xc0\x80", 2},
                                               {"\xc3", 0},
                                               {"abc\xe4\xbd", 3},
                                               {"\xed\xa0\x80", 0},
                                               {"\xf4\x90\x80\x80", 0},
                                               {"\u4f60\xf0\x9f\x98", 3},
                                               {"\xe0\x80\x80", 0},
                                               {"a\xf8\x88\x80\x80\x80", 1}};
  for (const auto& [text, offset] : cases) {
    try {
      t->encode(text);
      ADD_FAILURE() << quoted(text);
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kUsage);
      EXPECT_EQ(e.what(), str("text: not valid UTF-8 at byte offset ", offset));
    }
    EXPECT_EQ(t->decode(t->encode_bytes(text)), text);
    const TokenizedLine line = tokenize_json_line(*t, "{\"text\":\"" + text + "\"}", false);
    EXPECT_FALSE(line.ok);
  }
}

// U2: four times the text takes about four times as long.
TEST(HostileText, TimeIsLinear) {
  const std::string directory = test::has_shared_tokenizer("deepseek-v3")
                                    ? test::shared_tokenizer("deepseek-v3")
                                    : DSR_SOURCE_DIR "/models/tiny";
  if (!Tokenizer::is_in(directory)) GTEST_SKIP() << "no " << directory;
  const auto t = Tokenizer::load(directory);
  for (const char* unit :
       {"a", " ", "\n", "7", "!", "\u4f60", "\u0301", "<", "\uff5c", "a\u0301 "}) {
    const auto seconds = [&](size_t bytes) {
      std::string text;
      while (text.size() < bytes) text += unit;
      double best = 1e9;
      for (int i = 0; i < 3; ++i) best = std::min(best, seconds_of([&] { t->encode(text); }));
      return best;
    };
    const double quarter = seconds(1 << 18);
    EXPECT_LT(seconds(1 << 20), 10 * quarter + 0.05) << quoted(unit);  // 16 if it were quadratic
  }
}

// U3: whatever is typed, in whichever message of whichever format, every control token of the
// prompt is one that the format wrote.
TEST(HostileText, NoControlTokenComesFromAUser) {
  const std::string directory = DSR_SOURCE_DIR "/models/tiny";
  if (!Tokenizer::is_in(directory)) GTEST_SKIP() << "no models/tiny";
  const auto t = Tokenizer::load(directory);
  const std::string parts[] = {"<",
                               "\uff5c",
                               "\u2581",
                               ">",
                               "think",
                               "</",
                               "<think>",
                               "</think>",
                               "<\uff5cUser\uff5c>",
                               "<\uff5cAssistant\uff5c>",
                               "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
                               "<\uff5cend\u2581of\u2581sentence\uff5c>",
                               "<\uff5ctool\u2581calls\u2581begin\uff5c>",
                               "<|EOT|>",
                               "<\uff5cUs",
                               "er\uff5c>",
                               "a",
                               " ",
                               "\n",
                               "User: ",
                               "Assistant:",
                               "### Response:\n",
                               "\u0301"};
  PhiloxStream random(3, 0);
  const auto typed = [&] {
    std::string text;
    for (uint32_t n = random.next_u32() % 6; n > 0; --n)
      text += parts[random.next_u32() % std::size(parts)];
    return text;
  };
  const auto controls = [&](const RenderedPrompt& p) {
    // The bytes of every id, to know where it lies.
    std::vector<std::pair<int64_t, int64_t>> out;
    int64_t at = 0;
    for (const TokenId id : t->encode(p.text, p.literal)) {
      const int64_t end = at + std::ssize(t->token_bytes(id));
      if (id < 3 || id >= t->id_limit() - 17) out.emplace_back(at, end);
      at = end;
    }
    EXPECT_EQ(at, std::ssize(p.text));
    return out;
  };
  for (int round = 0; round < 2000; ++round) {
    std::vector<ChatMessage> messages, clean;
    for (uint32_t n = random.next_u32() % 3; n > 0; --n)
      messages.push_back({Role::kSystem, typed()});
    for (uint32_t n = random.next_u32() % 3; n > 0; --n) {
      messages.push_back({Role::kUser, typed()});
      messages.push_back({Role::kAssistant, typed()});
    }
    messages.push_back({Role::kUser, typed()});
    const std::string_view name =
        ChatFormat::names()[random.next_u32() % ChatFormat::names().size()];
    const RenderedPrompt p = ChatFormat::by_name(name).render(messages, Thinking::kAuto);
    for (const auto& [begin, end] : controls(p)) {
      for (const ByteRange& r : p.literal)
        EXPECT_TRUE(end <= r.begin || begin >= r.end) << name << ": " << quoted(p.text);
    }
  }
}

// U3: where nothing special is typed, the ranges change nothing.
TEST(HostileText, CleanPromptsAreEncodedAsOneText) {
  const std::string directory = DSR_SOURCE_DIR "/models/tiny";
  if (!Tokenizer::is_in(directory)) GTEST_SKIP() << "no models/tiny";
  const auto t = Tokenizer::load(directory);
  const char* const words[] = {"the ",  "fox", "12345", "\n", "  ", "\u4f60",
                               "don't", ".",   "a>",    "<b", ""};
  PhiloxStream random(4, 0);
  for (int round = 0; round < 10'000; ++round) {
    const auto clean = [&] {
      std::string text;
      for (uint32_t n = random.next_u32() % 8; n > 0; --n)
        text += words[random.next_u32() % std::size(words)];
      return text;
    };
    const std::vector<ChatMessage> messages = {{Role::kSystem, clean()},
                                               {Role::kUser, clean()},
                                               {Role::kAssistant, clean()},
                                               {Role::kUser, clean()}};
    const std::string_view name =
        ChatFormat::names()[random.next_u32() % ChatFormat::names().size()];
    const RenderedPrompt p = ChatFormat::by_name(name).render(messages, Thinking::kAuto);
    ASSERT_EQ(t->encode(p.text, p.literal), t->encode(p.text)) << quoted(p.text);
  }
}

}  // namespace
}  // namespace dsr
