// The alphabet of byte-level BPE: every byte is written as one printable character, so that a
// vocabulary is text (GPT-2, Radford et al. 2019, released code). Printable Latin-1 bytes stand for
// themselves; the other 68 are U+0100, U+0101, ... in order of the byte.
#pragma once

#include <string>
#include <string_view>

namespace dsr {

// Appends the bytes that `written` stands for; false if it holds a character outside the alphabet.
bool append_bytes_of_written(std::string& out, std::string_view written);

// One byte as it is written.
std::string written_byte(unsigned char byte);

}  // namespace dsr
