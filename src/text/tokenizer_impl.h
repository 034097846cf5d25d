// What every kind of tokenizer has: the bytes of its ids, and what tokenizer_config.json says.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "deepseek_run/log.h"
#include "deepseek_run/tokenizer.h"
#include "text/added_tokens.h"
#include "text/token_table.h"

namespace dsr {

class Tokenizer::Impl {
 public:
  virtual ~Impl() = default;

  // Appends the ids of `text`, whose bytes need not be UTF-8.
  virtual void encode(std::string_view text, std::span<const ByteRange> literal,
                      std::vector<TokenId>& out) const = 0;
  virtual std::optional<TokenId> find(std::string_view bytes) const = 0;
  // Encoding puts a space in front of a text; decoding takes it away again.
  virtual bool puts_space_in_front() const { return false; }

  // What tokenizer_config.json says about BOS, EOS and the chat template. Throws Error(kModel)
  // naming `path` and the field.
  void read_config(const Json& config, const std::string& path);

  const TokenBytes& bytes() const { return bytes_; }
  bool is_special(TokenId id) const {
    return id >= 0 && static_cast<size_t>(id) < is_special_.size() &&
           is_special_[static_cast<size_t>(id)];
  }

  std::optional<TokenId> bos_id, eos_id;
  bool add_bos = false;
  std::string chat_template;

 protected:
  // Calls `use(begin, end)` for what lies between the tokens that `matcher` finds in [begin, end),
  // and appends their ids.
  template <typename Use>
  static void cut(const AddedTokenMatcher& matcher, std::string_view text, ByteRange part,
                  std::span<const ByteRange> literal, std::vector<TokenId>& out, const Use& use) {
    auto begin = static_cast<size_t>(part.begin);
    const auto end = static_cast<size_t>(part.end);
    while (const auto m = matcher.next(text, begin, end, literal)) {
      use(begin, m->begin);
      out.push_back(m->id);
      begin = m->end;
    }
    use(begin, end);
  }
  void mark_special(TokenId id, bool special) {
    is_special_.resize(static_cast<size_t>(bytes_.limit()));
    is_special_[static_cast<size_t>(id)] = special;
  }

  TokenBytes bytes_;

 private:
  std::optional<TokenId> special_id(const Json& config, std::string_view key,
                                    const std::string& path) const;

  std::vector<bool> is_special_;  // by id
};

// From a tokenizer.json. `path` names the file in messages.
std::unique_ptr<Tokenizer::Impl> make_bpe_tokenizer(const Json& json, const std::string& path,
                                                    const WarningSink& warn);
// From the bytes of a tokenizer.model, and the added_tokens_decoder of `config` if not null.
std::unique_ptr<Tokenizer::Impl> make_sentencepiece_tokenizer(std::string_view model,
                                                              const std::string& path,
                                                              const Json* config);

}  // namespace dsr
