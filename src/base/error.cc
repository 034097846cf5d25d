#include "base/error.h"

#include <array>

#include "base/utf8.h"

namespace dsr {
namespace {
constexpr size_t kMaxUntrustedBytes = 200;
}

std::string escaped(std::string_view untrusted) {
  std::string out;
  size_t i = 0;
  while (i < untrusted.size()) {
    if (i >= kMaxUntrustedBytes) {
      out += "...";
      break;
    }
    const Utf8Char c = decode_utf8(untrusted.substr(i));
    const bool c1_control = c.valid && c.code_point >= 0x80 && c.code_point <= 0x9f;
    const bool control = c.valid && (c.code_point < 0x20 || c.code_point == 0x7f);
    if (!c.valid || control || c1_control) {
      constexpr char kHex[] = "0123456789abcdef";
      for (int64_t b = 0; b < c.bytes; ++b) {
        const auto byte = static_cast<unsigned char>(untrusted[i + static_cast<size_t>(b)]);
        out += "\\x";
        out += kHex[byte >> 4];
        out += kHex[byte & 15];
      }
    } else {
      out += untrusted.substr(i, static_cast<size_t>(c.bytes));
    }
    i += static_cast<size_t>(c.bytes);
  }
  return out;
}

std::string Quoted::operator()(std::string_view untrusted) const {
  return "\"" + escaped(untrusted) + "\"";
}

std::string with_commas(int64_t value) {
  std::string digits = std::to_string(value);
  const size_t first = value < 0 ? 1 : 0;
  for (size_t i = digits.size(); i > first + 3;) {
    i -= 3;
    digits.insert(i, ",");
  }
  return digits;
}

std::string human_bytes(int64_t bytes) {
  if (bytes < 1000) return str(bytes, " B");
  constexpr std::array<const char*, 5> kUnits = {"kB", "MB", "GB", "TB", "PB"};
  double value = static_cast<double>(bytes) / 1000;
  size_t unit = 0;
  while (value >= 999.95 && unit + 1 < kUnits.size()) {
    value /= 1000;
    ++unit;
  }
  std::ostringstream out;
  out.imbue(std::locale::classic());
  out.setf(std::ios::fixed);
  out.precision(1);
  out << value << " " << kUnits[unit];
  return out.str();
}

}  // namespace dsr
