// What sampling knows of one sequence beyond its tokens: on the host, one for each request.
#pragma once

#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "deepseek_run/sampling_params.h"
#include "sampling/dry.h"
#include "sampling/loop_guard.h"

namespace dsr {

class SamplerState {
 public:
  // `dry_breakers` outlives it.
  SamplerState(const SamplingParams& params, const std::vector<bool>& dry_breakers);

  // What is added to the logits of the token after `tokens` (prompt and answer): logit_bias and
  // DRY, one entry for each id, ascending.
  std::vector<std::pair<TokenId, float>> biases(std::span<const TokenId> tokens);

  // Takes in a token of the answer; true if the loop guard ends it here.
  bool push(TokenId id);

 private:
  std::vector<std::pair<TokenId, double>> logit_bias_;  // ascending, each id once
  std::optional<Dry> dry_;
  bool guarded_;
  std::optional<LoopGuard> loop_guard_;  // from the first token on: many requests may wait
};

// Whether a penalty looks at earlier tokens.
bool penalises(const SamplingParams& p);
// Whether a token can be drawn before the host knows the one before it.
//   temperature, top_k, top_p, min_p, seed, logit_bias  depend on no token                  yes
//   loop_guard, and what else ends an answer            drops what was drawn too much       yes
//   repetition, presence and frequency penalty          the host gives the tokens they see  no
//   dry                                                 is computed on the host             no
//   logprobs                                            the step waits for the host anyway  no
bool can_draw_ahead(const SamplingParams& p);

// The most that a row may ask for.
inline constexpr int64_t kMaxLogitBiases = 1024;
inline constexpr int64_t kMaxBiasesPerRow = kMaxLogitBiases + kMaxDryPenalties;
inline constexpr int64_t kMaxTopLogProbs = 20;

}  // namespace dsr
