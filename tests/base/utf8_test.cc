#include "base/utf8.h"

#include <gtest/gtest.h>

#include <optional>
#include <vector>

namespace dsr {
namespace {

// The slow definition: a byte string is the UTF-8 form of exactly one scalar value if encoding
// every scalar value by the bit patterns of RFC 3629 section 3 gives it. Decoding goes the other
// way: take the bits out, then require the shortest form and no surrogate.
std::optional<char32_t> slow_decode(std::string_view s) {
  const auto bits = [&s](size_t i) { return static_cast<unsigned char>(s[i]); };
  struct Form {
    size_t length;
    unsigned lead_mask, lead_value;
    char32_t smallest;
  };
  for (const Form& f : {Form{1, 0x80, 0x00, 0}, Form{2, 0xe0, 0xc0, 0x80},
                        Form{3, 0xf0, 0xe0, 0x800}, Form{4, 0xf8, 0xf0, 0x10000}}) {
    if (s.size() != f.length || (bits(0) & f.lead_mask) != f.lead_value) continue;
    char32_t c = bits(0) & ~f.lead_mask;
    for (size_t i = 1; i < f.length; ++i) {
      if ((bits(i) & 0xc0) != 0x80) return std::nullopt;
      c = c * 64 + (bits(i) & 0x3f);
    }
    const bool surrogate = c >= 0xd800 && c <= 0xdfff;
    if (c < f.smallest || c > 0x10ffff || surrogate) return std::nullopt;
    return c;
  }
  return std::nullopt;
}

// Checks decode_utf8 at the start of `s` against the definition.
void check(std::string_view s) {
  const Utf8Char found = decode_utf8(s);
  for (size_t n = 1; n <= s.size() && n <= 4; ++n) {
    if (const auto c = slow_decode(s.substr(0, n))) {
      ASSERT_TRUE(found.valid && found.code_point == *c && found.bytes == static_cast<int64_t>(n));
      return;
    }
  }
  ASSERT_TRUE(!found.valid && found.bytes == 1);
}

TEST(Utf8Test, AllByteStringsOfUpToThreeBytesDecodeAsDefined) {
  std::string s;
  for (int a = 0; a < 256; ++a) {
    s.assign(1, static_cast<char>(a));
    check(s);
    for (int b = 0; b < 256; ++b) {
      s.resize(1);
      s += static_cast<char>(b);
      check(s);
      for (int c = 0; c < 256; ++c) {
        s.resize(2);
        s += static_cast<char>(c);
        check(s);
      }
    }
  }
}

TEST(Utf8Test, AllFourByteStringsAtTheEdgesDecodeAsDefined) {
  // Every lead and second byte; third and fourth bytes at the edges of what continues.
  const std::vector<int> edges = {0x00, 0x7f, 0x80, 0x81, 0xbe, 0xbf, 0xc0, 0xff};
  for (int a = 0; a < 256; ++a)
    for (int b = 0; b < 256; ++b)
      for (const int c : edges)
        for (const int d : edges)
          check(std::string{static_cast<char>(a), static_cast<char>(b), static_cast<char>(c),
                            static_cast<char>(d)});
}

TEST(Utf8Test, EveryScalarValueSurvivesTheRoundTrip) {
  std::string all;
  for (char32_t c = 0; c <= 0x10ffff; ++c) {
    if (c == 0xd800) c = 0xe000;
    std::string one;
    append_utf8(one, c);
    ASSERT_EQ(slow_decode(one), c);
    all += one;
  }
  EXPECT_EQ(find_invalid_utf8(all), -1);
}

TEST(Utf8Test, TheFirstInvalidByteIsFound) {
  EXPECT_EQ(find_invalid_utf8(""), -1);
  EXPECT_EQ(find_invalid_utf8("ab\xc3\xa9"), -1);
  EXPECT_EQ(find_invalid_utf8("\xff"), 0);
  EXPECT_EQ(find_invalid_utf8("é\x80"), 2);
  EXPECT_EQ(find_invalid_utf8("ab\xe2\x82"), 2);
  EXPECT_EQ(find_invalid_utf8("a\xed\xa0\x80"), 1);
  EXPECT_EQ(decode_utf8("").bytes, 0);
}

// What the suffix is, in one sentence: the longest tail of 1 to 3 bytes that is no character and
// that some bytes would complete to one.
int64_t slow_suffix(std::string_view s) {
  const std::vector<std::string> completions = {"\x80",     "\x90",         "\xa0",
                                                "\xbf",     "\x80\x80",     "\x90\x80",
                                                "\xa0\x80", "\x80\x80\x80", "\x90\x80\x80"};
  for (size_t n = 3; n >= 1; --n) {
    if (n > s.size()) continue;
    for (const std::string& more : completions)
      if (slow_decode(std::string(s.substr(s.size() - n)) + more)) return static_cast<int64_t>(n);
  }
  return 0;
}

TEST(Utf8Test, TheIncompleteSuffixIsWhatMoreBytesCouldComplete) {
  EXPECT_EQ(incomplete_utf8_suffix(""), 0);
  EXPECT_EQ(incomplete_utf8_suffix("abc\xf0\x9f\x92"), 3);
  EXPECT_EQ(incomplete_utf8_suffix("abc\xe2\x82"), 2);
  EXPECT_EQ(incomplete_utf8_suffix("abc\xc3"), 1);
  EXPECT_EQ(incomplete_utf8_suffix("abc\xed\xa0"), 0);  // only a surrogate could follow
  std::string s;
  for (int a = 0; a < 256; ++a)
    for (int b = 0; b < 256; ++b)
      for (const int c : {0x20, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc1, 0xc2, 0xe0, 0xed,
                          0xf0, 0xf4, 0xf5, 0xff}) {
        s = {static_cast<char>(a), static_cast<char>(b), static_cast<char>(c)};
        ASSERT_EQ(incomplete_utf8_suffix(s), slow_suffix(s)) << a << " " << b << " " << c;
        s = {static_cast<char>(c), static_cast<char>(a), static_cast<char>(b)};
        ASSERT_EQ(incomplete_utf8_suffix(s), slow_suffix(s)) << c << " " << a << " " << b;
      }
}

}  // namespace
}  // namespace dsr
