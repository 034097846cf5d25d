// UTF-8, one character at a time. Strict: no overlong forms, no surrogates, at most U+10FFFF
// (Unicode 15, table 3-7).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace dsr {

struct Utf8Char {
  char32_t code_point;  // undefined if not valid
  int64_t bytes;        // length in bytes; 1 for an invalid byte; 0 only for empty input
  bool valid;
};

// The character at the start of `text`.
Utf8Char decode_utf8(std::string_view text);

// Appends the UTF-8 form of a scalar value.
void append_utf8(std::string& out, char32_t code_point);

// Byte offset of the first invalid byte, or -1 if all of `text` is valid UTF-8.
int64_t find_invalid_utf8(std::string_view text);

// How many bytes at the end of `text` begin a character that more bytes could complete: 0 to 3.
int64_t incomplete_utf8_suffix(std::string_view text);

}  // namespace dsr
