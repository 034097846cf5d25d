// From the command line's prompt to token ids.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "deepseek_run/chat.h"
#include "deepseek_run/tokenizer.h"
#include "tools/options.h"

namespace dsr {

struct Prompt {
  std::string text;  // as the model gets it, BOS included where it is written as text
  std::vector<TokenId> ids;
  bool chat = false;                 // a chat format was applied
  bool starts_in_reasoning = false;  // it ends inside a reasoning block
};

// What the user gave: text, or ids.
struct PromptInput {
  std::string text;
  std::optional<std::vector<TokenId>> ids;
};

// From -p, -f, --prompt-ids or standard input. Throws Error(kUsage) if there is none, or several.
PromptInput read_prompt(const Options& options);

// The tokenizer of a model directory; null if it has none.
std::unique_ptr<Tokenizer> load_tokenizer(const std::string& model_dir, bool quiet);
// The same where text cannot do without: Error(kModel).
std::unique_ptr<Tokenizer> require_tokenizer(const std::string& model_dir, bool quiet);

// The chat format of --chat-format or of the model; null for plain completion. Throws Error(kModel)
// if the model lacks its control tokens.
const ChatFormat* find_chat_format(const Options& options, const std::string& model_dir,
                                   const Tokenizer& tokenizer);
// Of --tools.
std::vector<ChatTool> read_tools(const Options& options);

// Applies the chat format, or BOS where the model wants one. `tokenizer` may be null for ids alone.
Prompt make_prompt(const Options& options, const std::string& model_dir, const Tokenizer* tokenizer,
                   PromptInput input);
// For `logits`: the text as it is, BOS where the model wants one.
Prompt make_raw_prompt(const Tokenizer* tokenizer, PromptInput input, bool bytes);

}  // namespace dsr
