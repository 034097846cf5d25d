// What a batch file asks for.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "deepseek_run/answer.h"
#include "deepseek_run/batch.h"

namespace dsr {

// A piece of the input: where it is and how it is called.
struct BatchPiece {
  std::string_view text;  // without its line break
  int64_t line = 0;       // the number of its first line, from 1
};
// The pieces of a file that are not empty, in order.
std::vector<BatchPiece> split_batch(std::string_view file, BatchSplit split);

struct BatchRecord {
  std::string custom_id;
  AnswerRequest request;
  int64_t n = 1;  // answers
  bool has_seed = false;
  bool chat = true;
};

// What is the same for all lines.
struct BatchContext {
  const Tokenizer* tokenizer = nullptr;
  const ChatFormat* format = nullptr;  // null: prompts are continued
  SamplingParams defaults = {};
  int64_t vocab_size = 0;
  std::string system = {};
  Thinking thinking = Thinking::kAuto;
  int64_t max_new_tokens = -1;
  std::vector<std::string> stop = {};
  uint64_t seed = 0;
};

// Turns pieces into requests.
class BatchParser {
 public:
  BatchParser(const BatchContext& context, BatchSplit split, std::function<void(std::string)> note)
      : context_(context), split_(split), note_(std::move(note)) {}

  // The id alone, as far as the piece gives one that can be read.
  std::optional<std::string> custom_id(const BatchPiece& piece) const;
  // Throws Error for a piece that cannot be answered.
  BatchRecord parse(const BatchPiece& piece);

 private:
  BatchRecord parse_body(const Json& body, const std::string& url);
  void set_prompt(BatchRecord& out, JsonReader& body, bool completion);
  void set_sampling(BatchRecord& out, JsonReader& body);
  void render(BatchRecord& out, const std::vector<ChatMessage>& messages, Thinking thinking,
              const std::vector<ChatTool>& tools) const;
  std::vector<TokenId> encode_raw(const std::string& text) const;
  void warn_of_unread(const JsonReader& reader);

  BatchContext context_;
  BatchSplit split_;
  std::function<void(std::string)> note_;
  std::set<std::string> noted_;  // fields that were not understood
};

// The seed of a record that names none: below 2^53, so that every reader of JSON takes it exactly.
uint64_t seed_of(uint64_t batch_seed, std::string_view custom_id);

}  // namespace dsr
