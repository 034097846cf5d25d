#include <gtest/gtest.h>

#include <ctime>

#include "base/error.h"
#include "text/pcre2_pattern.h"

namespace dsr {
namespace {

std::string error_of(std::string_view pattern, std::string_view text) {
  try {
    Pcre2Pattern(pattern, "here").split(text, [](std::string_view) {});
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kModel);
    return e.what();
  }
  return "no error";
}

// Row F15 of hostile.md: eight patterns that take other programs minutes, or their stack.
TEST(HostilePatterns, StopInTime) {
  const std::string a_mib(1 << 20, 'a'), spaces(1 << 20, 'Z');
  const std::string digits = std::string(1 << 16, '1') + "x";
  const struct {
    const char* pattern;
    std::string_view text;
    bool fails;
  } kCases[] = {
      {"(a+)+$", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", true},
      {"(Z | z)+", spaces, false},
      {"(Z|z)+y", spaces, true},
      {"(a|aa)+$", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", true},
      {"(a|b|ab)*c", "ababababababababababababababababababababababababababababab", false},
      {"(.*)*x", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", false},
      {"((((((((((a+)+)+)+)+)+)+)+)+)+)+[^a]$", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
       true},
      {"(\\d+)*(\\d+)*(\\d+)*[yz]", digits, true},
  };
  for (const auto& c : kCases) {
    const std::clock_t start = std::clock();
    const std::string error = error_of(c.pattern, c.text);
    if (c.fails) {
      EXPECT_NE(error.find(str("the pattern ", quoted(c.pattern), " gave up on the text: ")),
                std::string::npos)
          << error;
    }
    const double seconds = double(std::clock() - start) / CLOCKS_PER_SEC;
#ifndef DSR_SANITIZED
    EXPECT_LT(seconds, 0.5) << c.pattern;
#else
    EXPECT_LT(seconds, 5) << c.pattern;
#endif
  }
}

// Quadratic, not exponential: no single match is expensive, all of them are.
TEST(HostilePatterns, AreStoppedByTheClock) {
  const std::string text(4 << 20, 'a');
  const std::clock_t start = std::clock();
  EXPECT_NE(error_of("a*[bc]", text).find("it took too long for 4194304 bytes"), std::string::npos);
  EXPECT_LT((std::clock() - start) / CLOCKS_PER_SEC, 30);
}

}  // namespace
}  // namespace dsr
