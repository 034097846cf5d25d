#include "deepseek_run/tokenizer.h"

#include <gtest/gtest.h>
#include <pthread.h>

#include <ctime>
#include <numeric>
#include <set>

#include "base/rng.h"
#include "base/utf8.h"
#include "text/merge_queue.h"
#include "text/text_fixture.h"

namespace dsr {
namespace {

using Ids = std::vector<TokenId>;

TEST(Tokenizer, MergesTheLowestRankFirst) {
  const auto t = test::load_fixture();
  EXPECT_EQ(t->encode(""), Ids{});
  EXPECT_EQ(t->encode("hello"), Ids{259});
  EXPECT_EQ(t->encode(" hello"), Ids{260});
  EXPECT_EQ(t->encode("hell"), Ids{258});
  EXPECT_EQ(t->encode("ell"), (Ids{'e', 257}));
  EXPECT_EQ(t->encode("aaa"), (Ids{261, 'a'}));  // of equal ranks the leftmost
  EXPECT_EQ(t->encode("hello hello12"), (Ids{259, 260, '1', '2'}));
}

TEST(Tokenizer, LongPiecesAreMergedAsShortOnes) {
  const auto t = test::load_fixture();
  std::string text;
  Ids expected;
  for (int i = 0; i < 40; ++i) {  // 240 bytes in one piece
    text += "helloa";
    expected.insert(expected.end(), {259, 'a'});
  }
  EXPECT_EQ(t->encode(text), expected);
  EXPECT_EQ(t->encode(std::string(1001, 'a')).size(), 501u);
}

TEST(Tokenizer, RandomWordsAreMergedAsTheDefinitionSays) {
  // The definition: merge the leftmost pair of lowest rank until there is none.
  const std::pair<std::string, std::string> ranks[] = {
      {"h", "e"}, {"l", "l"}, {"he", "ll"}, {"hell", "o"}, {"a", "a"}};
  const auto definition = [&](const std::string& word) {
    std::vector<std::string> parts;
    for (const char c : word) parts.emplace_back(1, c);
    for (bool merged = true; merged;) {
      merged = false;
      for (const auto& [left, right] : ranks) {
        for (size_t i = 0; i + 1 < parts.size() && !merged; ++i) {
          if (parts[i] != left || parts[i + 1] != right) continue;
          parts[i] += right;
          parts.erase(parts.begin() + static_cast<int64_t>(i) + 1);
          merged = true;
        }
        if (merged) break;
      }
    }
    return parts;
  };
  const auto t = test::load_fixture();
  PhiloxStream random(1, 0);
  for (int round = 0; round < 2000; ++round) {
    std::string word;
    const size_t size = 1 + random.next_u32() % 90;  // on both sides of the short-piece limit
    while (word.size() < size) word += "heloa"[random.next_u32() % 5];
    Ids expected;
    for (const std::string& part : definition(word)) expected.push_back(*t->find(part));
    ASSERT_EQ(t->encode(word), expected) << word;
  }
}

TEST(Tokenizer, AddedTokensAreCutOutFirstAndLongestWins) {
  const auto t = test::load_fixture();
  EXPECT_EQ(t->encode("<think>"), Ids{304});
  EXPECT_EQ(t->encode("<thinking>"), Ids{307});
  EXPECT_EQ(t->encode("<thinking"), t->encode_bytes("<thinking"));
  EXPECT_EQ(t->encode("a<think>a</think>a"), (Ids{'a', 304, 'a', 305, 'a'}));
  EXPECT_EQ(t->encode("hel<think>lo"), (Ids{256, 'l', 304, 'l', 'o'}));  // no merge across
  EXPECT_EQ(t->encode(str(kBosText, kUserText, "aa", kAssistantText, kEosText)),
            (Ids{300, 302, 261, 303, 301}));
  EXPECT_EQ(t->encode("<think").size(), 6u);
}

TEST(Tokenizer, LiteralTextNeverBecomesControlTokens) {
  const auto t = test::load_fixture();
  const std::string text = "<think>hello<think></think>";
  const ByteRange middle[] = {{7, 19}};
  EXPECT_EQ(t->encode(text, middle), (Ids{304, 259, '<', 't', 'h', 'i', 'n', 'k', '>', 305}));
  for (int64_t begin = 0; begin < 7; ++begin) {  // one byte is enough
    const ByteRange one[] = {{begin, begin + 1}};
    EXPECT_EQ(t->encode("<think>", one).size(), 7u) << begin;
  }
  // A shorter token that touches nothing literal still counts; an empty range touches nothing.
  const ByteRange tail[] = {{0, 0}, {7, 10}};
  EXPECT_EQ(t->encode("<think>ing>", tail).front(), 304);
  const ByteRange several[] = {{0, 7}, {14, 21}};
  EXPECT_EQ(t->encode("<think><think><think>", several).size(), 15u);
  // A letter that only exists as an added token is a letter everywhere.
  const ByteRange all[] = {{0, 4}};
  EXPECT_EQ(t->encode("a\u0436a", all), (Ids{'a', 306, 'a'}));
}

TEST(Tokenizer, LiteralRangesDoNotChangeHowTextIsCut) {
  const auto t = test::load_fixture();
  const ByteRange half[] = {{3, 8}};  // "hel[lo he]llo"
  EXPECT_EQ(t->encode("hello hello", half), t->encode("hello hello"));
}

TEST(Tokenizer, RefusesBytesThatAreNotUtf8UnlessAsked) {
  const auto t = test::load_fixture();
  try {
    t->encode("ab\xff");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUsage);
    EXPECT_STREQ(e.what(), "text: not valid UTF-8 at byte offset 2");
  }
  EXPECT_EQ(t->encode_bytes("hello\xff\xc3<think>"), (Ids{259, 0xff, 0xc3, 304}));
}

TEST(Tokenizer, EncodeBytesIsEncodeForText) {
  const auto t = test::load_fixture();
  for (const char* text : {"", "hello", "\u4f60\u597d <think> \u0436", "12345 hello"})
    EXPECT_EQ(t->encode_bytes(text), t->encode(text));
}

TEST(Tokenizer, EveryScalarValueComesBack) {
  const auto t = test::load_fixture();
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xd800 && c < 0xe000) continue;
    std::string text;
    append_utf8(text, c);
    ASSERT_EQ(t->decode(t->encode(text)), text) << static_cast<uint32_t>(c);
  }
}

TEST(Tokenizer, EveryIdSequenceDecodes) {
  const auto t = test::load_fixture();
  Ids ids(500);
  std::iota(ids.begin(), ids.end(), -50);
  std::string expected;
  for (int b = 0; b < 256; ++b) expected += static_cast<char>(b);
  expected += "hellhellhello helloaa";
  expected += str(kBosText, kEosText, kUserText, kAssistantText, "<think></think>\u0436<thinking>");
  EXPECT_EQ(t->decode(ids), expected);
  EXPECT_EQ(t->decode(Ids{300, 259, 302, 301}, /*skip_special=*/true), str("hello", kUserText));
  EXPECT_EQ(t->decode(Ids{-1, 2147483647, 270, 308}), "");
}

TEST(Tokenizer, FindsEntriesByTheirBytes) {
  const auto t = test::load_fixture();
  EXPECT_EQ(t->find("hello"), 259);
  EXPECT_EQ(t->find(" "), 32);
  EXPECT_EQ(t->find("<think>"), 304);
  EXPECT_EQ(t->find("\u0436"), 306);
  EXPECT_EQ(t->find("hellohello"), std::nullopt);
  EXPECT_EQ(t->find(""), std::nullopt);
  EXPECT_EQ(t->id_limit(), 308);
  EXPECT_TRUE(t->has_entry(0));
  EXPECT_FALSE(t->has_entry(262));  // a gap
  EXPECT_FALSE(t->has_entry(-1));
  EXPECT_FALSE(t->has_entry(308));
  EXPECT_TRUE(t->is_special(300));
  EXPECT_FALSE(t->is_special(302));
  EXPECT_FALSE(t->is_special(-1));
}

TEST(Tokenizer, IgnoreMergesTakesWholeEntries) {
  const std::string json = test::fixture_tokenizer().dump();
  // "heo" is an entry that no merge makes.
  const std::string with_entry = test::replaced(json, R"("vocab":{)", R"("vocab":{"heo":270,)");
  EXPECT_EQ(test::load_text(with_entry)->encode("heo"), (Ids{256, 'o'}));
  const std::string ignoring =
      test::replaced(with_entry, R"("type":"BPE")", R"("type":"BPE","ignore_merges":true)");
  EXPECT_EQ(test::load_text(ignoring)->encode("heo"), Ids{270});
}

TEST(Tokenizer, ReadsMergesWrittenAsPairs) {
  const std::string json =
      test::replaced(test::fixture_tokenizer().dump(), R"("h e")", R"(["h","e"])");
  EXPECT_EQ(test::load_text(json)->encode("hello"), Ids{259});
}

TEST(MergeQueue, GivesTheSmallestKeyFirst) {
  PhiloxStream random(4, 0);
  for (int round = 0; round < 200; ++round) {
    std::vector<uint64_t> keys;
    for (uint32_t n = random.next_u32() % 20; n > 0; --n) keys.push_back(random.next_u32() % 50);
    std::multiset<uint64_t> expected(keys.begin(), keys.end());
    MergeQueue queue(std::move(keys));
    uint64_t key = 0;
    for (int step = 0; step < 300; ++step) {
      if (random.next_u32() % 5 < 3) {
        // Half ascending, as repetitive text makes them, half anything.
        key = step % 2 == 0 ? static_cast<uint64_t>(step) : random.next_u32() % 300;
        queue.push(key);
        expected.insert(key);
      } else if (expected.empty()) {
        EXPECT_FALSE(queue.pop(key));
      } else {
        ASSERT_TRUE(queue.pop(key));
        ASSERT_EQ(key, *expected.begin());
        expected.erase(expected.begin());
      }
    }
  }
}

struct LongTexts {
  const Tokenizer* tokenizer;
  std::string wrong;
};

void* encode_long_texts(void* argument) {
  auto& task = *static_cast<LongTexts*>(argument);
  for (const char* unit : {"a", " ", "\n", "7", "!", "\u4f60", "\u0301", "<", "hello", "\x01"}) {
    std::string text;
    while (text.size() < 1 << 20) text += unit;
    if (task.tokenizer->decode(task.tokenizer->encode(text)) != text) task.wrong += unit;
  }
  return nullptr;
}

// 1 MiB of anything needs neither a deep stack nor quadratic time (which would be minutes).
TEST(Tokenizer, LongTextsNeedLittleStack) {
#ifdef DSR_SANITIZED
  constexpr size_t kStackBytes = 512 << 10;  // the sanitizer's frames are larger
#else
  constexpr size_t kStackBytes = 64 << 10;
#endif
  const auto t = test::load_fixture();
  LongTexts task{t.get(), ""};
  const std::clock_t start = std::clock();
  pthread_attr_t attributes;
  ASSERT_EQ(pthread_attr_init(&attributes), 0);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, kStackBytes), 0);
  pthread_t thread;
  ASSERT_EQ(pthread_create(&thread, &attributes, encode_long_texts, &task), 0);
  ASSERT_EQ(pthread_join(thread, nullptr), 0);
  pthread_attr_destroy(&attributes);
  EXPECT_EQ(task.wrong, "");
  EXPECT_LT((std::clock() - start) / CLOCKS_PER_SEC, 60);
}

TEST(Tokenizer, ReadsItsConfig) {
  const std::string json = test::fixture_tokenizer().dump();
  const auto none = test::load_text(json);
  EXPECT_EQ(none->bos_id(), std::nullopt);
  EXPECT_FALSE(none->add_bos());
  EXPECT_EQ(none->chat_template(), "");

  Json eos = Json::object();
  eos.set("content", kEosText);
  Json config = Json::object();
  config.set("bos_token", kBosText);
  config.set("eos_token", std::move(eos));
  config.set("add_bos_token", true);
  config.set("chat_template", "x");
  const auto full = test::load_text(json, config.dump());
  EXPECT_EQ(full->bos_id(), 300);
  EXPECT_EQ(full->eos_id(), 301);
  EXPECT_TRUE(full->add_bos());
  EXPECT_EQ(full->chat_template(), "x");

  const auto named =
      test::load_text(json, R"({"bos_token":null,"chat_template":[{"name":"a","template":"1"},)"
                            R"({"name":"default","template":"2"}]})");
  EXPECT_EQ(named->bos_id(), std::nullopt);
  EXPECT_EQ(named->chat_template(), "2");
}

TEST(Tokenizer, ChatTemplateFileComesFirst) {
  const test::TempDirectory directory;
  directory.write("tokenizer.json", test::fixture_tokenizer().dump());
  directory.write("tokenizer_config.json", R"({"chat_template":"old"})");
  directory.write("chat_template.jinja", "new");
  EXPECT_EQ(Tokenizer::load(directory.path())->chat_template(), "new");
}

}  // namespace
}  // namespace dsr
