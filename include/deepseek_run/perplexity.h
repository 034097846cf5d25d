// How well a model predicts a text.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "deepseek_run/engine.h"

namespace dsr {

struct PredictedToken {
  int64_t position = 0;  // in the text's ids
  TokenId id = 0;
  double log_prob = 0;  // natural logarithm, given the tokens before it in its window
};

struct PerplexityOptions {
  EngineOptions engine = {};  // ctx_size: tokens of a window; 0: min(the model's, 4096)
  // How far windows are apart. Each begins with the tokens it shares with the one before, which are
  // context and not counted again. 0: half a window.
  int64_t stride = 0;
  std::function<void(const PredictedToken&)> on_token = {};
  std::function<bool()> keep_going = {};  // asked before every window; false ends the run
};

struct Perplexity {
  int64_t tokens = 0;   // predicted: all but the first
  double log_prob = 0;  // mean, natural logarithm
  // Standard error of that mean, as if tokens were independent; NaN for one token, which says
  // nothing of it.
  double deviation = 0;
  bool complete = false;

  double value() const;           // exp(-log_prob)
  double standard_error() const;  // of value(), to first order
  double bits_per_token() const;
};

// Throws Error(kUsage) for fewer than two ids; Error(kNonFinite) where a logit is not finite.
Perplexity perplexity(const PerplexityOptions& options, std::span<const TokenId> ids);

// One line of text, or a JSON object on one line. `text_bytes`: of the text, 0 where there is none.
std::string perplexity_text(const Perplexity& p, int64_t text_bytes);
std::string perplexity_json(const Perplexity& p, int64_t text_bytes);
// {"position", "id", "text", "log_prob"} on one line.
std::string predicted_token_json(const PredictedToken& token, const Tokenizer* tokenizer);

}  // namespace dsr
