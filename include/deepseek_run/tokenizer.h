// Text to token ids and back, exactly as the checkpoint's own tokenizer files say.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "deepseek_run/log.h"

namespace dsr {

using TokenId = int32_t;

// A half-open range of bytes of a text.
struct ByteRange {
  int64_t begin = 0;
  int64_t end = 0;
  bool operator==(const ByteRange&) const = default;
};

// Byte-level BPE from a `tokenizer.json`, or sentencepiece from a `tokenizer.model`. Immutable
// after load; safe to use from several threads.
class Tokenizer {
 public:
  // Reads `tokenizer.json` (`tokenizer.model` where there is none) and, where present,
  // `tokenizer_config.json` in `directory`. `warn` hears of a pre-tokenizer pattern that is not one
  // of those we know. Throws Error(kModel) naming file and field.
  static std::unique_ptr<Tokenizer> load(const std::string& directory,
                                         const WarningSink& warn = {});
  // Whether `directory` has one of the two files.
  static bool is_in(const std::string& directory);
  ~Tokenizer();

  // The ids of `text`; no BOS is added. (sentencepiece may see a space in front of every part
  // between added tokens, as its model says.) Added tokens in the text are recognised, except those
  // that touch a byte of one of the `literal` ranges (ascending, disjoint): what a user typed stays
  // text. (Added tokens of one character are recognised everywhere: they are letters that a base
  // vocabulary lacks, like the u umlaut of DeepSeek LLM.) Throws Error(kUsage) with the byte
  // offset if `text` is not valid UTF-8.
  std::vector<TokenId> encode(std::string_view text, std::span<const ByteRange> literal = {}) const;

  // The ids of arbitrary bytes: as `encode`, but bytes that are not UTF-8 become their byte tokens.
  std::vector<TokenId> encode_bytes(std::string_view bytes) const;

  // The bytes the ids stand for, exactly (they may end inside a UTF-8 character; ids without an
  // entry stand for nothing). With `skip_special`, tokens marked special are left out. A space that
  // encoding put in front (sentencepiece) is taken away.
  std::string decode(std::span<const TokenId> ids, bool skip_special = false) const;
  // The bytes of one id.
  std::string_view token_bytes(TokenId id) const;

  // The id of an added token or vocabulary entry whose bytes are exactly `bytes`.
  std::optional<TokenId> find(std::string_view bytes) const;
  bool has_entry(TokenId id) const;
  // Marked `special` in the file: a control token that is not part of the text.
  bool is_special(TokenId id) const;
  // One more than the highest id that has an entry. Ids below it may still have none.
  int64_t id_limit() const;

  std::optional<TokenId> bos_id() const;  // from tokenizer_config.json
  std::optional<TokenId> eos_id() const;
  // Whether raw text gets a BOS in front (`add_bos_token`). A rendered chat already holds it.
  bool add_bos() const;
  // `chat_template` of tokenizer_config.json (or chat_template.jinja), never executed; empty if
  // there is none.
  const std::string& chat_template() const;

  class Impl;  // one per kind of tokenizer

 private:
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Turns a stream of ids into whole UTF-8 characters: holds back at most 3 bytes.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  // The text that became complete with `id` (may be empty). Invalid bytes become U+FFFD.
  std::string push(TokenId id);
  // What is left at the end: an unfinished character becomes one U+FFFD.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  std::string pending_;
};

}  // namespace dsr
