// A request, or several answers to one prompt, run to the end, as text.
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
  std::vector<TokenLogProbs> log_probs = {};  // one for each id, where they were asked for
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

struct SamplePiece {
  int64_t sample = 0;  // which of the answers
  AnswerPiece piece = {};
  bool last = false;  // that answer has ended
};

// `n` answers to one prompt, run together; in one batch where the engine has that many places.
// Answer i is the one that run_to_end gives with i added to sample_index, token for token. Stop
// strings and penalties are each answer's own. `on_piece` hears of them all as run_to_end's does of
// one; returning false cancels all that still run.
std::vector<Answer> run_samples(Engine& engine, const Tokenizer* tokenizer,
                                const AnswerRequest& request, int64_t n,
                                const std::function<bool(const SamplePiece&)>& on_piece = {});

// How an answer is to be written as JSON.
struct AnswerJsonOptions {
  std::string model = {};          // name for the `model` field
  std::string id = {};             // e.g. "cmpl-..."
  bool chat = true;                // choices[].message, else choices[].text
  bool separate_reasoning = true;  // reasoning_content, else inside content or text
  bool timings = true;
  bool log_probs = false;                // choices[].logprobs
  const Tokenizer* tokenizer = nullptr;  // the text of its tokens; null: there is none
};
// The OpenAI completion object of one or several answers to one prompt, on one line.
// choices[].logprobs has an entry for every id, reasoning, control tokens and what a stop string
// cut off included.
//   chat: content[{token, logprob, bytes, top_logprobs[{token, logprob, bytes}]}]
//   text: tokens[], token_logprobs[], top_logprobs[{token: logprob}], text_offset[]
// A token that is not whole UTF-8 has its bytes in full; as text it reads U+FFFD in chat and
// "bytes:\xe2\x80" in text. An offset counts characters of the answer before reasoning is split
// off.
std::string answer_json(const std::vector<Answer>& answers, const std::vector<TokenId>& prompt_ids,
                        const AnswerJsonOptions& options);

// "prompt 812 tok, 11,204 tok/s | answer 214 tok, 231.0 tok/s | load 1.9 s | first token 0.21 s";
// of several answers to one prompt the sums: "prompt 3 x 812 tok, ... | 3 answers 640 tok, ...".
std::string timing_line(const std::vector<Answer>& answers, double load_seconds);
inline std::string timing_line(const Answer& answer, double load_seconds) {
  return timing_line(std::vector<Answer>{answer}, load_seconds);
}

}  // namespace dsr
