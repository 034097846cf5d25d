// StreamDecoder: see deepseek_run/tokenizer.h.
#include "base/utf8.h"
#include "deepseek_run/tokenizer.h"

namespace dsr {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// How many invalid bytes at the start of `text` become one U+FFFD: a character that is broken off,
// as far as it goes, else one byte ("maximal subpart", Unicode 15 section 3.9, D93b; so do WHATWG
// and Python).
size_t invalid_length(std::string_view text) {
  for (size_t n = 3; n > 1; --n) {
    if (n <= text.size() && incomplete_utf8_suffix(text.substr(0, n)) == static_cast<int64_t>(n))
      return n;
  }
  return 1;
}

// Appends `bytes` as valid UTF-8.
void append_replacing(std::string& out, std::string_view bytes) {
  while (!bytes.empty()) {
    const Utf8Char c = decode_utf8(bytes);
    const size_t n = c.valid ? static_cast<size_t>(c.bytes) : invalid_length(bytes);
    out += c.valid ? bytes.substr(0, n) : kReplacement;
    bytes.remove_prefix(n);
  }
}

}  // namespace

std::string StreamDecoder::push(TokenId id) {
  pending_ += tokenizer_.token_bytes(id);
  const auto held = static_cast<size_t>(incomplete_utf8_suffix(pending_));
  const size_t ready = pending_.size() - held;
  std::string out;
  append_replacing(out, std::string_view(pending_).substr(0, ready));
  pending_.erase(0, ready);
  return out;
}

std::string StreamDecoder::finish() {
  std::string out;
  append_replacing(out, pending_);
  pending_.clear();
  return out;
}

}  // namespace dsr
