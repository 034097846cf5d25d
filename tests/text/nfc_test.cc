#include "text/nfc.h"

#include <gtest/gtest.h>

#include <ctime>

#include "text/golden_corpus.h"
#include "text/text_fixture.h"

namespace dsr {
namespace {

std::string nfc(std::string_view text) { return to_nfc(text, {}).text; }

TEST(Nfc, EqualsHuggingFace) {
  test::for_each_golden_block([&](const Json& golden, const test::Corpus::Texts& texts) {
    test::CorpusHash hash;
    for (const std::string& text : texts) hash.add_text(nfc(text));
    EXPECT_EQ(hash.finish(), golden.find("nfc")->as_string()) << golden.find("name")->as_string();
  });
}

TEST(Nfc, JoinsAndSorts) {
  EXPECT_EQ(nfc("e\u0301"), "\u00e9");
  EXPECT_EQ(nfc("a\u0301\u0323"), "\u1ea1\u0301");  // the dot below comes first
  EXPECT_EQ(nfc("\u1100\u1161\u11a8"), "\uac01");   // Hangul
  EXPECT_EQ(nfc("\u212b\u2126"), "\u00c5\u03a9");   // one character for another
  EXPECT_EQ(nfc("\u0958"), "\u0915\u093c");         // excluded from composition
  EXPECT_EQ(nfc("e\xff\u0301"), "e\xff\u0301");     // nothing joins across a bad byte
  EXPECT_EQ(nfc("\xcc e\u0301"), "\xcc \u00e9");
  EXPECT_EQ(nfc(""), "");
}

std::string marked(std::string_view text, std::vector<ByteRange> literal) {
  const NormalizedText n = to_nfc(text, literal);
  std::string out(n.text.size(), '.');
  for (const ByteRange& r : n.literal)
    for (int64_t i = r.begin; i < r.end; ++i) out[static_cast<size_t>(i)] = '#';
  return out;
}

TEST(Nfc, LiteralRangesMoveWithTheirText) {
  EXPECT_EQ(marked("abc", {{1, 2}}), ".#.");
  EXPECT_EQ(marked("ae\u0301b", {{3, 4}}), ".##.");  // two bytes are left of "e" and the accent
  EXPECT_EQ(marked("ae\u0301b", {{4, 5}}), "...#");
  EXPECT_EQ(marked("e\u0301e\u0301", {{0, 1}, {3, 4}}), "####");
  EXPECT_EQ(marked("<x>\u0301y", {{3, 6}}), "...###");  // nothing to join: byte by byte
  EXPECT_EQ(marked("e\u0301", {}), "..");
}

TEST(Nfc, ManyMarksTakeLinearTime) {
  std::string text = "a";
  for (int i = 0; i < 1 << 18; ++i) text += i % 2 == 0 ? "\u0301" : "\u0323";
  const std::clock_t start = std::clock();
  EXPECT_EQ(nfc(text).size(), text.size());  // a and one dot below become one of 3 bytes
  EXPECT_LT((std::clock() - start) / CLOCKS_PER_SEC, 5);
}

TEST(Nfc, IsANormalizerOfATokenizer) {
  const std::string json = test::fixture_tokenizer().dump();
  const auto t = test::load_text(
      test::replaced(json, R"({"added_tokens")", R"({"normalizer":{"type":"NFC"},"added_tokens")"));
  using Ids = std::vector<TokenId>;
  EXPECT_EQ(t->encode("e\u0301"), (Ids{0xc3, 0xa9}));
  EXPECT_EQ(t->encode("hello<think>e\u0301"), (Ids{259, 304, 0xc3, 0xa9}));
  const std::string text = str("e\u0301", kUserText, "e\u0301", kUserText);
  const auto n = static_cast<int64_t>(kUserText.size());
  const ByteRange typed[] = {{0, 3 + n}};
  const Ids ids = t->encode(text, typed);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 302), 1);
  EXPECT_EQ(t->decode(ids), str("\u00e9", kUserText, "\u00e9", kUserText));
}

}  // namespace
}  // namespace dsr
