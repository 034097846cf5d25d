// Unicode normalisation form C (UAX 15), the "normalizer" of Qwen2's tokenizer.json.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "deepseek_run/tokenizer.h"

namespace dsr {

struct NormalizedText {
  std::string text;
  // Where the bytes of the literal ranges went. A character that was put together of literal and
  // other text is literal.
  std::vector<ByteRange> literal;
};

// Bytes that are not UTF-8 stay as they are, and nothing is put together across them.
NormalizedText to_nfc(std::string_view text, std::span<const ByteRange> literal);

// Throws Error(kModel) with `place` in front if this build cannot normalise.
void require_nfc(std::string_view place);

}  // namespace dsr
