// One request run to its end, as text.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "deepseek_run/engine.h"

namespace dsr {

struct AnswerRequest {
  Request request;
  std::vector<std::string> stop;     // the answer ends before the first of these; each not empty
  bool split_reasoning = false;      // chat formats: text between <think> and </think> is reasoning
  bool starts_in_reasoning = false;  // RenderedPrompt::starts_in_reasoning
};

struct AnswerPiece {
  std::string text;  // whole UTF-8 characters
  bool reasoning = false;
};

struct Answer {
  std::string content;
  std::string reasoning;
  std::vector<TokenId> ids;  // all generated tokens, without the end-of-sequence token
  FinishReason finish = FinishReason::kNone;
  int64_t prompt_tokens = 0;
  uint64_t seed = 0;
  double first_token_seconds = 0;  // from submission
  double total_seconds = 0;
};

// Submits the request and steps the engine until it ends. `on_piece` receives text as it becomes
// certain (a stop string is never given out, not even in part); returning false cancels. With a
// null tokenizer there are ids and no text. Special tokens are not part of the text, except the
// two that mark reasoning.
Answer run_to_end(Engine& engine, const Tokenizer* tokenizer, const AnswerRequest& request,
                  const std::function<bool(const AnswerPiece&)>& on_piece = {});

// How an answer is to be written as JSON.
struct AnswerJsonOptions {
  std::string model;               // name for the `model` field
  std::string id;                  // e.g. "cmpl-..."
  bool chat = true;                // choices[].message, else choices[].text
  bool separate_reasoning = true;  // message.reasoning_content, else inside content
  bool timings = true;
};
// The OpenAI completion object of one or several answers to one prompt, on one line.
std::string answer_json(const std::vector<Answer>& answers, const std::vector<TokenId>& prompt_ids,
                        const AnswerJsonOptions& options);

}  // namespace dsr
