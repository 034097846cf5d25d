#include "sampling/stop_matcher.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "base/utf8.h"
#include "support/expect_error.h"

namespace dsr {
namespace {

// What must come out: the text up to the stop string that ends first (of those the longest).
std::string plain_search(const std::string& text, const std::vector<std::string>& stop) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t found = 0;
    for (const std::string& s : stop)
      if (s.size() <= end && text.compare(end - s.size(), s.size(), s) == 0)
        found = std::max(found, s.size());
    if (found > 0) return text.substr(0, end - found);
  }
  return text;
}

// Pushes `text` in pieces of the given sizes; checks that what is out never had to be taken back.
std::string run(const std::string& text, const std::vector<std::string>& stop,
                const std::function<size_t()>& piece_size) {
  StopMatcher matcher(stop);
  const std::string want = plain_search(text, stop);
  std::string out;
  for (size_t at = 0; at < text.size() && !matcher.stopped();) {
    const size_t n = std::min(piece_size(), text.size() - at);
    out += matcher.push(std::string_view(text).substr(at, n));
    at += n;
    EXPECT_TRUE(want.starts_with(out)) << out;
  }
  return out + matcher.finish();
}

TEST(StopMatcher, WithoutStopStringsNothingIsHeldBack) {
  StopMatcher matcher({});
  EXPECT_EQ(matcher.push("abc"), "abc");
  EXPECT_EQ(matcher.finish(), "");
  EXPECT_FALSE(matcher.stopped());
}

TEST(StopMatcher, HoldsBackTheLongestPossibleBeginning) {
  StopMatcher matcher({"\n\nUser:", "END"});
  EXPECT_EQ(matcher.push("one\n"), "one");
  EXPECT_EQ(matcher.push("two\n\nUs"), "\ntwo");
  EXPECT_EQ(matcher.push("age E"), "\n\nUsage ");
  EXPECT_EQ(matcher.push("N"), "");
  EXPECT_EQ(matcher.push("D and more"), "");
  EXPECT_TRUE(matcher.stopped());
  EXPECT_EQ(matcher.push("after"), "");
  EXPECT_EQ(matcher.finish(), "");
}

TEST(StopMatcher, WhatWasHeldBackComesAtTheEnd) {
  StopMatcher matcher({"END"});
  EXPECT_EQ(matcher.push("the EN"), "the ");
  EXPECT_EQ(matcher.finish(), "EN");
  EXPECT_FALSE(matcher.stopped());
}

TEST(StopMatcher, TheFirstToEndCounts) {
  EXPECT_EQ(run("xabcdy", {"abcd", "bc"}, [] { return size_t{6}; }), "xa");
  EXPECT_EQ(run("xabcdy", {"cd", "abcd"}, [] { return size_t{6}; }), "x");
}

TEST(StopMatcher, InsideMultibyteCharactersOnlyWholeOnesComeOut) {
  // These share all bytes but the last: 'a' umlaut, 'o' umlaut; two emoji.
  StopMatcher matcher({"\xC3\xB6", "\xF0\x9F\x98\x82!"});
  EXPECT_EQ(matcher.push("\xC3\xA4"), "\xC3\xA4");
  EXPECT_EQ(matcher.push("\xF0\x9F\x98\x82"), "");
  EXPECT_EQ(matcher.push("?"), "\xF0\x9F\x98\x82?");
  EXPECT_EQ(matcher.push("x\xC3\xB6y"), "x");
  EXPECT_TRUE(matcher.stopped());
}

TEST(StopMatcher, TenKilobytes) {
  // Nearly the stop string, over and over: linear or it takes minutes.
  std::string text;
  for (int i = 0; i < 100; ++i) text += std::string(9'999, 'a') + "b";
  StopMatcher matcher({std::string(10'000, 'a') + "b"});
  std::string out;
  for (size_t at = 0; at < text.size(); at += 3)
    out += matcher.push(std::string_view(text).substr(at, 3));
  EXPECT_EQ(out, text);
  EXPECT_EQ(matcher.push("a" + std::string(10'000, 'a') + "b rest"), "a");
  EXPECT_TRUE(matcher.stopped());
}

TEST(StopMatcher, EmptyAndBrokenStringsAreRefused) {
  EXPECT_EQ(test::error_of(
                [] {
                  StopMatcher({"a", ""});
                },
                ErrorKind::kUsage),
            "a stop string is empty");
  EXPECT_EQ(test::error_of([] { StopMatcher({"a\xff"}); }, ErrorKind::kUsage),
            "stop string \"a\\xff\" is not UTF-8 at byte 1");
}

// Small alphabets make stop strings that overlap themselves and each other.
TEST(StopMatcher, AnyCutOfAnyTextAgreesWithPlainSearch) {
  std::mt19937 random(7);
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
  const std::vector<std::string> alphabet = {"a", "b", "\xC3\xA4", "\xC3\xB6", "\xE2\x82\xAC"};
  const auto random_text = [&](size_t max_chars, size_t letters) {
    std::string out;
    for (size_t n = 1 + below(max_chars); n > 0; --n) out += alphabet[below(letters)];
    return out;
  };
  int stopped = 0;
  for (int round = 0; round < 20'000; ++round) {
    const size_t letters = 1 + below(alphabet.size());
    std::vector<std::string> stop(below(4));
    for (std::string& s : stop) s = random_text(6, letters);
    const std::string text = random_text(40, letters);
    const std::string want = plain_search(text, stop);
    stopped += want != text;
    ASSERT_EQ(run(text, stop, [&] { return 1 + below(9); }), want) << text;
  }
  EXPECT_GT(stopped, 5'000);
}

TEST(StopMatcher, WholeCharactersInWholeCharactersOut) {
  std::mt19937 random(11);
  const std::vector<std::string> alphabet = {"\xC3\xA4", "\xC3\xB6", "\xE2\x82\xAC",
                                             "\xE2\x82\xAD"};
  for (int round = 0; round < 2'000; ++round) {
    std::string stop;
    for (size_t n = 1 + random() % 4; n > 0; --n) stop += alphabet[random() % alphabet.size()];
    StopMatcher matcher({stop});
    for (int i = 0; i < 30; ++i)
      ASSERT_EQ(find_invalid_utf8(matcher.push(alphabet[random() % alphabet.size()])), -1);
    ASSERT_EQ(find_invalid_utf8(matcher.finish()), -1);
  }
}

}  // namespace
}  // namespace dsr
