#include <gtest/gtest.h>

#include "base/rng.h"
#include "base/utf8.h"
#include "text/text_fixture.h"

namespace dsr {
namespace {

const Tokenizer& fixture() {
  static const std::unique_ptr<Tokenizer> t = test::load_fixture();
  return *t;
}

std::string streamed(std::string_view bytes) {
  StreamDecoder decoder(fixture());
  std::string out;
  for (const char c : bytes) out += decoder.push(static_cast<unsigned char>(c));
  return out + decoder.finish();
}

TEST(StreamDecoder, ReplacesInvalidBytesAsPythonDoes) {
  // Python: bytes.decode("utf-8", "replace")
  const std::string r = "\uFFFD";
  EXPECT_EQ(streamed("ok"), "ok");
  EXPECT_EQ(streamed("\xff"), r);
  EXPECT_EQ(streamed("\xe2\x82\xac"), "\u20ac");
  EXPECT_EQ(streamed("\xe2\x82"), r);  // broken off: one
  EXPECT_EQ(streamed("\xe2\x82"
                     "A"),
            r + "A");
  EXPECT_EQ(streamed("\xf0\x9f\x98"), r);
  EXPECT_EQ(streamed("\xf0\x9f\x98\xf0\x9f\x98\x80"), r + "\U0001F600");
  EXPECT_EQ(streamed("\xed\xa0\x80"), r + r + r);          // a surrogate
  EXPECT_EQ(streamed("\xf4\x90\x80\x80"), r + r + r + r);  // above U+10FFFF
  EXPECT_EQ(streamed("\xc0\xaf"), r + r);                  // overlong
  EXPECT_EQ(streamed("\x80\x80"), r + r);
  EXPECT_EQ(streamed("\xe2\xe2\x82"), r + r);
}

TEST(StreamDecoder, GivesACharacterAsSoonAsItIsComplete) {
  StreamDecoder decoder(fixture());
  EXPECT_EQ(decoder.push('a'), "a");
  EXPECT_EQ(decoder.push(0xf0), "");
  EXPECT_EQ(decoder.push(0x9f), "");
  EXPECT_EQ(decoder.push(0x98), "");
  EXPECT_EQ(decoder.push(0x80), "\U0001F600");
  EXPECT_EQ(decoder.push(9999), "");  // no entry: nothing
  EXPECT_EQ(decoder.push(259), "hello");
  EXPECT_EQ(decoder.finish(), "");
}

// Any way to cut a byte stream into tokens gives the same text.
TEST(StreamDecoder, SplitsDoNotMatter) {
  PhiloxStream random(2, 0);
  const std::string_view parts[] = {"a",    "\xff", "\xe2", "\x82", "\xac", "\xf0", "\x9f",
                                    "\xed", "\xa0", "\xc3", "\xbc", "\xf4", "\x90", "hello"};
  for (int round = 0; round < 3000; ++round) {
    std::string bytes;
    for (uint32_t n = random.next_u32() % 12; n > 0; --n) bytes += parts[random.next_u32() % 14];
    const std::vector<TokenId> merged = fixture().encode_bytes(bytes);  // "hello" is one token here
    StreamDecoder decoder(fixture());
    std::string text;
    size_t given = 0;
    for (const TokenId id : merged) {
      text += decoder.push(id);
      given += fixture().token_bytes(id).size();
      // Only a character that may still be completed is held back.
      const std::string prefix = bytes.substr(0, given);
      const int64_t held = incomplete_utf8_suffix(prefix);
      ASSERT_EQ(text, streamed(prefix.substr(0, given - static_cast<size_t>(held))));
    }
    text += decoder.finish();
    ASSERT_EQ(text, streamed(bytes)) << quoted(bytes);
  }
}

}  // namespace
}  // namespace dsr
