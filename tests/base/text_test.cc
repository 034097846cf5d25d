// What base/error.h does to text and numbers on their way into a message.
#include <gtest/gtest.h>

#include <iomanip>  // brings std::quoted, which must not be chosen for ours
#include <limits>

#include "base/error.h"
#include "base/math.h"
#include "support/expect_error.h"

namespace dsr {
namespace {

TEST(EscapedTest, ControlCharactersAndBadBytesBecomeVisible) {
  EXPECT_EQ(escaped("plain é 你好 🌍"), "plain é 你好 🌍");
  EXPECT_EQ(escaped("\x1b[31m\r\n\t\x7f"), "\\x1b[31m\\x0d\\x0a\\x09\\x7f");
  EXPECT_EQ(escaped("\xc2\x9b"
                    "31m"),
            "\\xc2\\x9b31m");  // CSI as one C1 character
  EXPECT_EQ(escaped("a\xff"
                    "b\xe2\x82"),
            "a\\xffb\\xe2\\x82");
  EXPECT_EQ(escaped(std::string("a\0b", 3)), "a\\x00b");
}

TEST(EscapedTest, AllBytesGiveValidTextWithoutControls) {
  for (int a = 0; a < 256; ++a)
    for (int b = 0; b < 256; ++b)
      for (const char c : escaped(std::string{static_cast<char>(a), static_cast<char>(b)}))
        ASSERT_FALSE(static_cast<unsigned char>(c) < 0x20 || c == 0x7f) << a << " " << b;
}

TEST(EscapedTest, LongTextIsCutAtACharacter) {
  EXPECT_EQ(escaped(std::string(200, 'x')), std::string(200, 'x'));
  EXPECT_EQ(escaped(std::string(201, 'x')), std::string(200, 'x') + "...");
  EXPECT_EQ(escaped(std::string(199, 'x') + "éé"), std::string(199, 'x') + "é...");
}

// std::quoted is a better match for a std::string than anything that takes a string_view.
TEST(QuotedTest, EscapesWhateverKindOfString) {
  std::string text = "a\x1b";
  const std::string constant = text;
  EXPECT_EQ(str(quoted(text)), "\"a\\x1b\"");
  EXPECT_EQ(str(quoted(constant)), "\"a\\x1b\"");
  EXPECT_EQ(str(quoted(std::string(text))), "\"a\\x1b\"");
  EXPECT_EQ(str(quoted("a\x1b")), "\"a\\x1b\"");
  EXPECT_EQ(str(quoted(std::string_view(text))), "\"a\\x1b\"");
}

TEST(NumberTextTest, Commas) {
  EXPECT_EQ(with_commas(0), "0");
  EXPECT_EQ(with_commas(999), "999");
  EXPECT_EQ(with_commas(1000), "1,000");
  EXPECT_EQ(with_commas(1234567), "1,234,567");
  EXPECT_EQ(with_commas(-999), "-999");
  EXPECT_EQ(with_commas(-1000), "-1,000");
  EXPECT_EQ(with_commas(std::numeric_limits<int64_t>::min()), "-9,223,372,036,854,775,808");
}

TEST(NumberTextTest, HumanBytes) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(999), "999 B");
  EXPECT_EQ(human_bytes(1000), "1.0 kB");
  EXPECT_EQ(human_bytes(999'949), "999.9 kB");
  EXPECT_EQ(human_bytes(999'950), "1.0 MB");
  EXPECT_EQ(human_bytes(688'574'839'360), "688.6 GB");
  EXPECT_EQ(human_bytes(std::numeric_limits<int64_t>::max()), "9223.4 PB");
}

TEST(ErrorTest, CarriesItsKindAsTheExitCode) {
  EXPECT_EQ(test::error_of([] { fail_usage("x ", 1, " ", 0.5); }, ErrorKind::kUsage), "x 1 0.5");
  EXPECT_EQ(test::error_of([] { fail(ErrorKind::kOutput, "disk"); }, ErrorKind::kOutput), "disk");
  const std::string text =
      test::error_of([] { DSR_CHECK(1 + 1 == 3, "two"); }, ErrorKind::kInternal);
  EXPECT_NE(text.find(": expected 1 + 1 == 3 with two"), std::string::npos) << text;
}

TEST(MathTest, CheckedMultiplication) {
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(checked_mul(kMax, 1), kMax);
  EXPECT_EQ(checked_mul(int64_t{1} << 31, int64_t{1} << 31), int64_t{1} << 62);
  EXPECT_EQ(checked_mul(int64_t{1} << 32, int64_t{1} << 31), -1);
  EXPECT_EQ(checked_mul(kMax, 0), 0);
  EXPECT_EQ(ceil_div(576, 128), 5);
  EXPECT_EQ(ceil_div(512, 128), 4);
  EXPECT_EQ(round_up(577, 64), 640);
}

}  // namespace
}  // namespace dsr
