// Tokenizer::Impl: byte-level BPE as a tokenizer.json describes it. A text is cut at added tokens,
// what lies between is pre-tokenized, and every piece becomes bytes that BPE merges.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "deepseek_run/tokenizer.h"
#include "text/added_tokens.h"
#include "text/bpe_model.h"
#include "text/pre_tokenizer.h"
#include "text/token_table.h"

namespace dsr {

class Tokenizer::Impl {
 public:
  // Throws Error(kModel) naming file and field. `path` names the file in messages.
  Impl(const Json& tokenizer_json, const std::string& path);
  // What tokenizer_config.json says about BOS, EOS and the chat template.
  void read_config(const Json& config, const std::string& path);

  // Appends the ids of `text`, whose bytes need not be UTF-8.
  void encode(std::string_view text, std::span<const ByteRange> literal,
              std::vector<TokenId>& out) const;
  std::optional<TokenId> find(std::string_view bytes) const;

  const TokenBytes& bytes() const { return bytes_; }
  bool is_special(TokenId id) const {
    return id >= 0 && static_cast<size_t>(id) < is_special_.size() &&
           is_special_[static_cast<size_t>(id)];
  }

  std::optional<TokenId> bos_id, eos_id;
  bool add_bos = false;
  std::string chat_template;

 private:
  // A part of the text between added tokens.
  struct Part {
    size_t begin, end;
  };
  void add_tokens(const std::vector<AddedToken>& tokens, const Json& vocabulary,
                  const std::string& place);
  void encode_part(std::string_view text, Part part, std::vector<TokenId>& out) const;
  std::optional<TokenId> special_id(const Json& config, std::string_view key,
                                    const std::string& path) const;

  TokenBytes bytes_;
  BpeModel model_;
  PreTokenizer pre_tokenizer_;
  std::vector<AddedToken> added_;
  AddedTokenMatcher raw_matcher_, normalized_matcher_;  // the two passes, see AddedToken
  std::vector<bool> is_special_;                        // by id
};

}  // namespace dsr
