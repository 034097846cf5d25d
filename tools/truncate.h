// --truncate: a prompt that is too long for the context, cut.
#pragma once

#include <string>

#include "deepseek_run/engine.h"
#include "tools/prompt.h"

namespace dsr {

// The prompt, if it fits `ctx_size` tokens with those that -n asks for; else with as much of the
// user's text left out, at the begin or in the middle, as leaves that much room (a quarter of the
// context where -n is not given), which is said on standard error. What a chat format writes, the
// system prompt and a BOS at the begin stay. Of --prompt-ids and --bytes tokens are left out, of
// text whole characters. Throws Error(kUsage) if leaving out all of it is not enough.
Prompt truncated(const Options& options, const std::string& model_dir, const Tokenizer* tokenizer,
                 const PromptInput& input, Prompt prompt, int64_t ctx_size);

// "\n  try: -c 1302, or --truncate left|middle": what would let a prompt of so many tokens in that
// is too long for the context; empty where nothing would, or it is not too long.
std::string overflow_hint(const Options& options, int64_t prompt_tokens, const ModelInfo& model);

}  // namespace dsr
