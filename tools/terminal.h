// What may be shown on a terminal, and how.
#pragma once

#include <string>
#include <string_view>

namespace dsr {

// Bracketed paste, which the line editor has a terminal tell while it reads.
inline constexpr const char *kPasteOn = "\x1b[?2004h", *kPasteOff = "\x1b[?2004l";

bool is_terminal(int fd);
// Whether TERM names a terminal that understands more than text.
bool understands_escapes();
// A terminal that understands colours, and NO_COLOR is not set (no-color.org).
bool has_colour(int fd);

// The length in bytes of the UTF-8 character at the start of `text`; 0 if there is no valid one.
size_t utf8_length(std::string_view text);
// The offset of the first byte that is not UTF-8; npos if there is none.
size_t invalid_utf8_at(std::string_view text);

// Whether a UTF-8 character is C0, DEL or C1.
bool is_control(std::string_view character);

// What of a text is shown as \x1b or \u{202e} instead of being sent to a terminal. Line breaks and
// tabs never are.
enum class Escape {
  kNone,
  kControls,  // C0, C1, DEL and bytes that are not UTF-8
  kStrict,    // and characters that reorder what is shown, or have no width: bidi controls, joiners
};
// How generated text is written: as it is where no terminal reads it, or `raw` was asked for.
Escape escape_for(int fd, bool raw, bool strict);

// Text that cannot control a terminal.
std::string visible(std::string_view text, Escape escape = Escape::kControls);
// The same for one line of a message: line breaks escaped too, cut at 200 bytes.
std::string visible_line(std::string_view text);

// A JSON text with what visible() would escape, but line breaks, as \u009b: it means the same.
std::string visible_json(std::string_view json);

// Dim, for reasoning on a terminal.
std::string dimmed(const std::string& text);

}  // namespace dsr
