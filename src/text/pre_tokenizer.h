// The "pre_tokenizer" of a tokenizer.json: cuts a text into the pieces that BPE merges within.
//
// A pre-tokenizer is a list of stages. Each stage finds the leftmost, non-overlapping matches of
// one regular expression in every piece of the stage before, and keeps the matches and what lies
// between them ("Isolated"). The patterns of the checkpoints we know have matchers of their own,
// linear in the text and without recursion over it; any other goes through PCRE2 under limits.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "deepseek_run/log.h"
#include "text/pcre2_pattern.h"
#include "text/unicode_classes.h"

namespace dsr {

// What one stage matches.
struct PreTokenizerStage {
  enum class Kind {
    kSet,            // \s?[set], [set]+, \p{N}{1,3} and the like
    kTrailingSpace,  // \s+$
    kDeepSeekV3,     // the alternation of DeepSeek-V3's third stage
    kQwen2,          // the alternation of Qwen2 and Llama 3
    kPcre2,          // any other pattern
  };
  Kind kind = Kind::kSet;
  CharSet set;                  // kSet
  bool optional_space = false;  // kSet: \s? in front
  int max_count = 1;            // kSet: characters of `set` in a match; kQwen2: digits in a match
  std::shared_ptr<const Pcre2Pattern> pattern = nullptr;  // kPcre2; stages are copied
};

// The stage for a regular expression as written in tokenizer.json. Throws Error(kModel) that names
// the pattern if it cannot be used. `place` names the field in messages.
PreTokenizerStage parse_stage_pattern(std::string_view pattern, std::string_view place);

class PreTokenizer {
 public:
  // `json` is the "pre_tokenizer" member. `warn` hears of patterns that go through PCRE2. Throws
  // Error(kModel) naming `place` and the field.
  PreTokenizer(const Json& json, const std::string& place, const WarningSink& warn = {});
  explicit PreTokenizer(std::vector<PreTokenizerStage> stages) : stages_(std::move(stages)) {}

  using Sink = std::function<void(std::string_view piece)>;
  // Gives the pieces of `text` to `sink`, in order; together they are `text`. Bytes that are not
  // UTF-8 are matched by no pattern.
  void split(std::string_view text, const Sink& sink) const { split_from(0, text, sink); }

 private:
  void add(const Json& json, const std::string& place, const WarningSink& warn);
  void add_split(JsonReader& reader, const WarningSink& warn);
  void split_from(size_t stage, std::string_view text, const Sink& sink) const;
  template <typename Match>
  void isolate(size_t stage, std::string_view text, const Sink& sink, const Match& match) const;
  void isolate_trailing_space(size_t stage, std::string_view text, const Sink& sink) const;

  UnicodeClasses classes_;
  std::vector<PreTokenizerStage> stages_;
  bool byte_level_ = false;  // the ByteLevel stage that has to come last was seen
};

}  // namespace dsr
