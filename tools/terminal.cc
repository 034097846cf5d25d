#include "tools/terminal.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>

namespace dsr {
namespace {

constexpr size_t kMaxLineBytes = 200;

void append_hex(std::string& out, std::string_view bytes) {
  constexpr std::string_view kHex = "0123456789abcdef";
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    out += "\\x";
    out += kHex[byte >> 4];
    out += kHex[byte & 15];
  }
}

void append_code_point(std::string& out, std::string_view open, uint32_t value, size_t digits,
                       std::string_view close) {
  constexpr std::string_view kHex = "0123456789abcdef";
  while (digits < 6 && value >> (4 * digits) != 0) ++digits;
  out += open;
  while (digits-- > 0) out += kHex[value >> (4 * digits) & 15];
  out += close;
}

uint32_t code_point(std::string_view character) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(character[i]); };
  if (character.size() == 1) return byte(0);
  uint32_t out = byte(0) & (0xFFU >> (character.size() + 1));
  for (size_t i = 1; i < character.size(); ++i) out = out << 6 | (byte(i) & 0x3FU);
  return out;
}

// Characters that change the order of what is shown, and those that are not seen (Unicode 15:
// Bidi_Control, and Default_Ignorable_Code_Point less variation selectors and letters).
struct CodeRange {
  uint32_t first, last;
};
constexpr std::array kDeceptive = {
    CodeRange{0x00AD, 0x00AD},   CodeRange{0x034F, 0x034F}, CodeRange{0x061C, 0x061C},
    CodeRange{0x180E, 0x180E},   CodeRange{0x200B, 0x200F}, CodeRange{0x2028, 0x202E},
    CodeRange{0x2060, 0x206F},   CodeRange{0xFEFF, 0xFEFF}, CodeRange{0xFFF0, 0xFFFB},
    CodeRange{0xE0000, 0xE007F},
};

bool is_deceptive(uint32_t c) {
  return std::any_of(kDeceptive.begin(), kDeceptive.end(),
                     [c](const CodeRange& r) { return c >= r.first && c <= r.last; });
}

std::string escape(std::string_view text, std::string_view kept, bool strict = false) {
  std::string out;
  while (!text.empty()) {
    const size_t n = utf8_length(text);
    const std::string_view character = text.substr(0, n == 0 ? 1 : n);
    const bool keep = n == 1 && kept.find(character[0]) != kept.npos;
    if (n == 0 || (is_control(character) && !keep))
      append_hex(out, n == 2 ? character.substr(1) : character);
    else if (strict && n > 1 && is_deceptive(code_point(character)))
      append_code_point(out, "\\u{", code_point(character), 4, "}");
    else
      out += character;
    text.remove_prefix(character.size());
  }
  return out;
}

}  // namespace

bool is_terminal(int fd) { return ::isatty(fd) == 1; }

bool understands_escapes() {
  const char* term = std::getenv("TERM");
  return term != nullptr && *term != '\0' && std::string_view(term) != "dumb";
}

bool has_colour(int fd) {
  const char* no_colour = std::getenv("NO_COLOR");
  return is_terminal(fd) && (no_colour == nullptr || *no_colour == '\0') && understands_escapes();
}

// Unicode 15, table 3-7: no overlong forms, no surrogates, at most U+10FFFF.
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) -> unsigned {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0;
  };
  const auto continues = [&](size_t i) { return (byte(i) & 0xC0) == 0x80; };
  if (text.empty()) return 0;
  const unsigned b0 = byte(0), b1 = byte(1);
  if (b0 < 0x80) return 1;
  if (b0 >= 0xC2 && b0 <= 0xDF) return continues(1) ? 2 : 0;
  if (b0 >= 0xE0 && b0 <= 0xEF) {
    const bool bad = (b0 == 0xE0 && b1 < 0xA0) || (b0 == 0xED && b1 > 0x9F);
    return continues(1) && continues(2) && !bad ? 3 : 0;
  }
  if (b0 >= 0xF0 && b0 <= 0xF4) {
    const bool bad = (b0 == 0xF0 && b1 < 0x90) || (b0 == 0xF4 && b1 > 0x8F);
    return continues(1) && continues(2) && continues(3) && !bad ? 4 : 0;
  }
  return 0;
}

size_t invalid_utf8_at(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const size_t n = utf8_length(text.substr(at));
    if (n == 0) return at;
    at += n;
  }
  return text.npos;
}

// UTF-8 writes C1 as C2 80 to C2 9F.
bool is_control(std::string_view character) {
  const auto first = static_cast<unsigned char>(character[0]);
  if (character.size() == 1) return first < 0x20 || first == 0x7f;
  return first == 0xC2 && static_cast<unsigned char>(character[1]) < 0xA0;
}

Escape escape_for(int fd, bool raw, bool strict) {
  if (!is_terminal(fd)) return Escape::kNone;
  return strict ? Escape::kStrict : raw ? Escape::kNone : Escape::kControls;
}

std::string visible(std::string_view text, Escape how) {
  if (how == Escape::kNone) return std::string(text);
  return escape(text, "\n\t", how == Escape::kStrict);
}

std::string visible_json(std::string_view json) {
  std::string out;
  while (!json.empty()) {
    const std::string_view character = json.substr(0, std::max<size_t>(utf8_length(json), 1));
    if (is_control(character) && character != "\n")
      append_code_point(out, "\\u", code_point(character), 4, "");
    else
      out += character;
    json.remove_prefix(character.size());
  }
  return out;
}

std::string visible_line(std::string_view text) {
  if (text.size() <= kMaxLineBytes) return escape(text, "");
  size_t end = kMaxLineBytes;
  while (end > kMaxLineBytes - 3 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return escape(text.substr(0, end), "") + "...";
}

std::string dimmed(const std::string& text) { return "\x1b[2m" + text + "\x1b[22m"; }

}  // namespace dsr
