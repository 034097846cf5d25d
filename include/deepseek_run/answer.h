// One request run to its end, as text.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "deepseek_run/engine.h"

namespace dsr {

struct AnswerRequest {
  Request request = {};
  std::vector<std::string> stop = {};  // the answer ends before the first of these; each not empty
  bool split_reasoning = false;      // chat formats: text between <think> and </think> is reasoning
  bool starts_in_reasoning = false;  // RenderedPrompt::starts_in_reasoning
};

struct AnswerPiece {
  std::string text;  // whole UTF-8 characters; may be empty
  bool reasoning = false;
};

struct Answer {
  std::string content;
  std::string reasoning;
  std::vector<TokenId> ids;  // all generated tokens, without the end-of-sequence token
  FinishReason finish = FinishReason::kNone;
  int64_t prompt_tokens = 0;
  int64_t reused_tokens = 0;  // of these, in the cache before; only a Conversation knows
  uint64_t seed = 0;
  double first_token_seconds = 0;  // from submission; 0 if there was none
  double total_seconds = 0;
};

// Submits the request and steps the engine until it ends. `on_piece` receives text as it becomes
// certain (a stop string is never given out, not even in part). It is called at least once a step,
// with an empty text where nothing is new, so that a long prompt can be interrupted too: returning
// false cancels, and what was held back until then still comes. With a null tokenizer there are ids
// and no text. Special tokens are not part of the text, except <think> and </think>.
Answer run_to_end(Engine& engine, const Tokenizer* tokenizer, const AnswerRequest& request,
                  const std::function<bool(const AnswerPiece&)>& on_piece = {});

// How an answer is to be written as JSON.
struct AnswerJsonOptions {
  std::string model = {};          // name for the `model` field
  std::string id = {};             // e.g. "cmpl-..."
  bool chat = true;                // choices[].message, else choices[].text
  bool separate_reasoning = true;  // reasoning_content, else inside content or text
  bool timings = true;
};
// The OpenAI completion object of one or several answers to one prompt, on one line.
std::string answer_json(const std::vector<Answer>& answers, const std::vector<TokenId>& prompt_ids,
                        const AnswerJsonOptions& options);

// "prompt 812 tok, 11,204 tok/s | answer 214 tok, 231.0 tok/s | load 1.9 s | first token 0.21 s"
std::string timing_line(const Answer& answer, double load_seconds);

}  // namespace dsr
