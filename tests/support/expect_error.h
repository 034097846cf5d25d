// Error paths are tested by their text.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "deepseek_run/error.h"

namespace dsr::test {

// The message of the Error that `call` throws; fails the test if it throws none, another kind, or
// text with a control character (a line break before "  try: " is the one allowed).
inline std::string error_of(const std::function<void()>& call, ErrorKind kind = ErrorKind::kModel) {
  try {
    call();
  } catch (const Error& e) {
    EXPECT_EQ(e.exit_code(), static_cast<int>(kind)) << e.what();
    const std::string text = e.what();
    for (size_t i = 0; i < text.size(); ++i) {
      const auto c = static_cast<unsigned char>(text[i]);
      if (c == '\n' && text.compare(i, 8, "\n  try: ") == 0) continue;
      EXPECT_FALSE(c < 0x20 || c == 0x7f) << "control character " << int{c} << " at " << i;
    }
    return text;
  }
  ADD_FAILURE() << "no error";
  return "";
}

// The same without the "  try: " lines.
inline std::string first_line_of(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

}  // namespace dsr::test
