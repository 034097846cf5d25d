// Patterns without a matcher of their own: what they match is compared with Hugging Face in
// pre_tokenizer_test.cc; here, what PCRE2 must not be given, and what it must not do to us.
#include <gtest/gtest.h>
#include <pthread.h>

#include "base/error.h"
#include "text/pcre2_pattern.h"
#include "text/pre_tokenizer.h"
#include "text/text_fixture.h"

namespace dsr {
namespace {

using Pieces = std::vector<std::string>;

Pieces pieces_of(std::string_view pattern, std::string_view text) {
  Pieces out;
  Pcre2Pattern(pattern, "here").split(text, [&](std::string_view p) { out.emplace_back(p); });
  return out;
}

std::string error_of(std::string_view pattern, std::string_view text = "") {
  try {
    pieces_of(pattern, text);
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kModel);
    return e.what();
  }
  return "no error";
}

TEST(Pcre2, MatchesAndGapsAreTheText) {
  EXPECT_EQ(pieces_of("b+", "abbc"), (Pieces{"a", "bb", "c"}));
  EXPECT_EQ(pieces_of("b+", ""), Pieces{});
  EXPECT_EQ(pieces_of("b+", "ac"), Pieces{"ac"});
  EXPECT_EQ(pieces_of("x*", "axxb"), (Pieces{"a", "xx", "b"}));  // no match of nothing behind one
  EXPECT_EQ(pieces_of("\\s+$", "a \n b  "), (Pieces{"a", " ", "\n b", "  "}));
  EXPECT_EQ(pieces_of("(?=b)", "abab"), (Pieces{"a", "ba", "b"}));
  EXPECT_EQ(pieces_of("b",
                      "a\xff\xff"
                      "b\xc3"),
            (Pieces{"a", "\xff\xff", "b", "\xc3"}));
  EXPECT_EQ(pieces_of("\\p{L}+", "\u00e9t\u00e9 \u4f60"), (Pieces{"\u00e9t\u00e9", " ", "\u4f60"}));
  EXPECT_EQ(pieces_of("[\\s]", "a\u180eb\u0085"), (Pieces{"a\u180eb", "\u0085"}));
  EXPECT_EQ(pieces_of("\\w+", "a\u0301b_\u2160\u2460"), (Pieces{"a\u0301b_\u2160", "\u2460"}));
}

TEST(Pcre2, RefusesWhatItWouldReadInAnotherWay) {
  const std::string tail =
      ", which PCRE2 reads differently from the library that it was written for";
  for (const char* construct : {"\\h", "\\b", "\\R", "\\X", "\\K", "\\G", "\\1", "\\Q", "&&",
                                "[...[", "(?m", "(?P", "{,", "}+", "[]"}) {
    const std::string what = construct;
    const std::string pattern = what == "&&"      ? "[a&&b]"
                                : what == "[...[" ? "[a[b]]"
                                : what == "(?m"   ? "(?m:a)"
                                : what == "(?P"   ? "(?P<n>a)"
                                : what == "{,"    ? "a{,3}"
                                : what == "}+"    ? "a{1,3}+"
                                : what == "[]"    ? "[]a]"
                                                  : "a" + what;
    EXPECT_EQ(error_of(pattern),
              str("here: the pattern ", quoted(pattern), " uses ", quoted(what), tail));
  }
}

TEST(Pcre2, RefusesWhatDoesNotCompile) {
  EXPECT_EQ(error_of("(a"),
            "here: the pattern \"(a\" cannot be used: missing closing parenthesis "
            "(at byte 2)");
  EXPECT_NE(error_of(std::string(200, '(') + std::string(200, ')')).find("too deeply nested"),
            std::string::npos);
  EXPECT_NE(error_of("(((a{1,999}){1,999}){1,999})").find("too large"), std::string::npos);
  EXPECT_NE(error_of(std::string(100'000, 'a')).find("longer than the limit"), std::string::npos);
}

void* split_long_text(void* argument) {
  const auto& pattern = *static_cast<const Pcre2Pattern*>(argument);
  const std::string text = std::string(1 << 20, 'a') + std::string(1 << 20, ' ');
  size_t bytes = 0;
  pattern.split(text, [&](std::string_view p) { bytes += p.size(); });
  EXPECT_EQ(bytes, text.size());
  return nullptr;
}

TEST(Pcre2, NeedsLittleStack) {
  Pcre2Pattern pattern("[a-z]+| ?[^\\s]+|\\s+", "here");
  pthread_attr_t attributes;
  ASSERT_EQ(pthread_attr_init(&attributes), 0);
#ifdef DSR_SANITIZED
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, 512 << 10), 0);
#else
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, 64 << 10), 0);
#endif
  pthread_t thread;
  ASSERT_EQ(pthread_create(&thread, &attributes, split_long_text, &pattern), 0);
  ASSERT_EQ(pthread_join(thread, nullptr), 0);
  pthread_attr_destroy(&attributes);
}

TEST(Pcre2, TheUserHearsOfIt) {
  const test::TempDirectory directory;
  directory.write("tokenizer.json", test::replaced(test::fixture_tokenizer().dump(),
                                                   R"(\\p{N}{1,3})", R"((?:hel|lo))"));
  std::vector<std::string> lines;
  const auto t =
      Tokenizer::load(directory.path(), [&](const std::string& l) { lines.push_back(l); });
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_NE(lines[0].find("pre_tokenizer.pretokenizers[0]: the pattern \"(?:hel|lo)\" is none of "
                          "those we know"),
            std::string::npos)
      << lines[0];
  EXPECT_EQ(t->encode("hello"), (std::vector<TokenId>{256, 'l', 'l', 'o'}));  // hel, lo
}

}  // namespace
}  // namespace dsr
