// Token ids as reports.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "deepseek_run/tokenizer.h"

namespace dsr {

// The ids of `text`, with the tokenizer's BOS in front if `add_bos` (and not there already).
// Throws Error(kUsage) if the tokenizer has no BOS.
std::vector<TokenId> tokenize(const Tokenizer& tokenizer, std::string_view text, bool add_bos);

// One line per token: id, a tab, its bytes in quotes with control characters and incomplete UTF-8
// escaped.
std::string tokens_text(const Tokenizer& tokenizer, const std::vector<TokenId>& ids);
// {"count", "ids", "pieces"} on one line; incomplete UTF-8 in a piece becomes U+FFFD.
std::string tokens_json(const Tokenizer& tokenizer, const std::vector<TokenId>& ids);

// {"text", "ids"} on one line: a prompt as the model gets it.
std::string prompt_json(std::string_view text, const std::vector<TokenId>& ids);

// A line {"text": ...} becomes {"ids": [...]}, and {"ids": [...]} becomes {"text": ...} (bytes that
// are not UTF-8 as U+FFFD); one that cannot be read becomes {"error": ...}.
struct TokenizedLine {
  std::string json;
  bool ok = false;
};
TokenizedLine tokenize_json_line(const Tokenizer& tokenizer, std::string_view line, bool add_bos);

}  // namespace dsr
