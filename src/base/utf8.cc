#include "base/utf8.h"

namespace dsr {
namespace {

// What the first byte of a character allows: its length and the range of its second byte.
struct Lead {
  int length;  // 0: not a first byte
  unsigned char second_min, second_max;
};

Lead lead_of(unsigned char b) {
  if (b < 0x80) return {1, 0, 0};
  if (b < 0xc2) return {0, 0, 0};
  if (b < 0xe0) return {2, 0x80, 0xbf};
  if (b == 0xe0) return {3, 0xa0, 0xbf};
  if (b == 0xed) return {3, 0x80, 0x9f};
  if (b < 0xf0) return {3, 0x80, 0xbf};
  if (b == 0xf0) return {4, 0x90, 0xbf};
  if (b < 0xf4) return {4, 0x80, 0xbf};
  if (b == 0xf4) return {4, 0x80, 0x8f};
  return {0, 0, 0};
}

bool continues(const Lead& lead, size_t index, unsigned char b) {
  if (index == 1) return b >= lead.second_min && b <= lead.second_max;
  return b >= 0x80 && b <= 0xbf;
}

}  // namespace

Utf8Char decode_utf8(std::string_view text) {
  if (text.empty()) return {0, 0, false};
  const auto first = static_cast<unsigned char>(text[0]);
  const Lead lead = lead_of(first);
  if (lead.length == 1) return {first, 1, true};
  if (lead.length == 0 || text.size() < static_cast<size_t>(lead.length)) return {0, 1, false};
  char32_t code_point = first & (0x7f >> lead.length);
  for (size_t i = 1; i < static_cast<size_t>(lead.length); ++i) {
    const auto b = static_cast<unsigned char>(text[i]);
    if (!continues(lead, i, b)) return {0, 1, false};
    code_point = (code_point << 6) | (b & 0x3f);
  }
  return {code_point, lead.length, true};
}

void append_utf8(std::string& out, char32_t c) {
  const auto put = [&out](char32_t byte) { out += static_cast<char>(byte); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xc0 | (c >> 6));
    put(0x80 | (c & 0x3f));
  } else if (c < 0x10000) {
    put(0xe0 | (c >> 12));
    put(0x80 | ((c >> 6) & 0x3f));
    put(0x80 | (c & 0x3f));
  } else {
    put(0xf0 | (c >> 18));
    put(0x80 | ((c >> 12) & 0x3f));
    put(0x80 | ((c >> 6) & 0x3f));
    put(0x80 | (c & 0x3f));
  }
}

int64_t find_invalid_utf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const Utf8Char c = decode_utf8(text.substr(i));
    if (!c.valid) return static_cast<int64_t>(i);
    i += static_cast<size_t>(c.bytes);
  }
  return -1;
}

int64_t incomplete_utf8_suffix(std::string_view text) {
  for (size_t n = 1; n <= 3 && n <= text.size(); ++n) {
    const std::string_view tail = text.substr(text.size() - n);
    const Lead lead = lead_of(static_cast<unsigned char>(tail[0]));
    if (lead.length <= static_cast<int>(n)) continue;  // complete, a continuation, or invalid
    for (size_t i = 1; i < n; ++i) {
      if (!continues(lead, i, static_cast<unsigned char>(tail[i]))) return 0;
    }
    return static_cast<int64_t>(n);
  }
  return 0;
}

}  // namespace dsr
