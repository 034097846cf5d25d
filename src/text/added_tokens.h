// The "added_tokens" of a tokenizer.json: strings that are cut out of a text before it is
// pre-tokenized, each one id.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "deepseek_run/tokenizer.h"

namespace dsr {

struct AddedToken {
  TokenId id = 0;
  std::string content;
  bool special = false;
  // Searched in a second pass, in what the other tokens left (Hugging Face searches the normalised
  // text then; we have no normaliser, so only the order matters).
  bool normalized = false;
};

// Throws Error(kModel) naming `place` and the entry.
std::vector<AddedToken> read_added_tokens(const Json& json, const std::string& place);

// Finds added tokens in a text: the leftmost, and of several there the longest.
class AddedTokenMatcher {
 public:
  explicit AddedTokenMatcher(const std::vector<AddedToken>& tokens);

  struct Match {
    size_t begin, end;
    TokenId id;
  };
  // The first match that lies in [from, to) of `text` and touches no byte of a literal range.
  // Tokens of one character match everywhere: they are letters that the vocabulary lacks (the 100k
  // tokenizer of DeepSeek LLM and V2 has thirteen), not control tokens.
  std::optional<Match> next(std::string_view text, size_t from, size_t to,
                            std::span<const ByteRange> literal) const;
  // The token that is exactly `text`.
  std::optional<TokenId> find(std::string_view text) const;

 private:
  struct Entry {
    std::string content;
    TokenId id;
    bool is_one_character;
  };
  // The longest entry at the start of `text`.
  const Entry* longest_prefix(std::string_view text, bool only_characters) const;

  std::vector<Entry> entries_;               // ascending by content
  std::array<uint32_t, 257> by_first_byte_;  // index into entries_
};

}  // namespace dsr
