// choices[].logprobs of a completion object: deepseek_run/answer.h says how.
#pragma once

#include "base/json.h"
#include "deepseek_run/answer.h"

namespace dsr {

// {"content": [...]}
Json chat_log_probs(const Answer& answer, const Tokenizer* tokenizer);
// {"tokens": [...], "token_logprobs": [...], "top_logprobs": [...], "text_offset": [...]}
Json text_log_probs(const Answer& answer, const Tokenizer* tokenizer);

}  // namespace dsr
