#include "text/byte_alphabet.h"

#include <array>

#include "base/utf8.h"

namespace dsr {
namespace {

constexpr bool stands_for_itself(int byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

constexpr std::array<char32_t, 256> make_alphabet() {
  std::array<char32_t, 256> out{};
  char32_t next = 0x100;
  for (int b = 0; b < 256; ++b)
    out[static_cast<size_t>(b)] = stands_for_itself(b) ? static_cast<char32_t>(b) : next++;
  return out;
}

constexpr std::array<char32_t, 256> kAlphabet = make_alphabet();
constexpr char32_t kAlphabetEnd = 0x144;

constexpr std::array<int16_t, kAlphabetEnd> make_inverse() {
  std::array<int16_t, kAlphabetEnd> out{};
  for (int16_t& b : out) b = -1;
  for (size_t b = 0; b < 256; ++b) out[kAlphabet[b]] = static_cast<int16_t>(b);
  return out;
}

constexpr std::array<int16_t, kAlphabetEnd> kInverse = make_inverse();

}  // namespace

bool append_bytes_of_written(std::string& out, std::string_view written) {
  while (!written.empty()) {
    const Utf8Char c = decode_utf8(written);
    if (!c.valid || c.code_point >= kAlphabetEnd || kInverse[c.code_point] < 0) return false;
    out += static_cast<char>(kInverse[c.code_point]);
    written.remove_prefix(static_cast<size_t>(c.bytes));
  }
  return true;
}

std::string written_byte(unsigned char byte) {
  std::string out;
  append_utf8(out, kAlphabet[byte]);
  return out;
}

}  // namespace dsr
