// What may be shown on a terminal, and how.
#pragma once

#include <string>
#include <string_view>

namespace dsr {

bool is_terminal(int fd);
// Whether TERM names a terminal that understands more than text.
bool understands_escapes();
// A terminal that understands colours, and NO_COLOR is not set (no-color.org).
bool has_colour(int fd);

// The length in bytes of the UTF-8 character at the start of `text`; 0 if there is no valid one.
size_t utf8_length(std::string_view text);
// The offset of the first byte that is not UTF-8; npos if there is none.
size_t invalid_utf8_at(std::string_view text);

// Text that cannot control a terminal: C0, C1, DEL and invalid bytes as \x1b; line breaks and tabs
// stay.
std::string visible(std::string_view text);
// The same for one line of a message: line breaks escaped too, cut at 200 bytes.
std::string visible_line(std::string_view text);

// Dim, for reasoning on a terminal.
std::string dimmed(const std::string& text);

}  // namespace dsr
