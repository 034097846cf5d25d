// How the next token is chosen.
//
// The stages, in this order (formulas: src/ops/sample.h):
//   repetition penalty; presence and frequency penalties; logit biases and DRY; temperature; top-k;
//   top-p; min-p; the draw.
// Log-probabilities are of the model's own logits, before all of them.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "deepseek_run/tokenizer.h"

namespace dsr {

// Ranges are closed and checked in one place, check_sampling_params.
struct SamplingParams {
  double temperature = 0.6;       // 0 (greedy) or 0.01 .. 100
  int64_t top_k = 0;              // 0 (off) .. 2^20
  double top_p = 0.95;            // 0.0001 .. 1 (off)
  double min_p = 0;               // 0 (off) .. 1
  double repetition_penalty = 1;  // 0.01 .. 100; 1 is off
  double presence_penalty = 0;    // -100 .. 100
  double frequency_penalty = 0;   // -100 .. 100
  int64_t penalty_window = 64;    // last tokens these three see: 0 (none) .. 2^20, -1: all
  // DRY: a token that would make a repetition of n >= dry_allowed_length tokens of earlier text one
  // longer loses dry_multiplier * dry_base^(n - dry_allowed_length). See src/sampling/dry.h.
  double dry_multiplier = 0;                           // 0 (off) .. 100
  double dry_base = 1.75;                              // 1 .. 100
  int64_t dry_allowed_length = 2;                      // tokens, 1 .. 1000
  std::vector<std::pair<TokenId, double>> logit_bias;  // id, -100 .. 100; at most 1024
  uint64_t seed = 0;
  int64_t sample_index = 0;  // which of several answers to one prompt: 0 .. 2^20
  // -1: none. 0 .. 20: with each token its log-probability, and those of so many likeliest tokens.
  int64_t logprobs = -1;
  // Ends an answer that has come to say one thing over and over (FinishReason::kRepetition): it
  // ends in at least 4 copies of up to 1024 tokens, 1024 tokens together. See
  // src/sampling/loop_guard.h.
  bool loop_guard = true;

  bool operator==(const SamplingParams&) const = default;
};

// Throws Error(kUsage) "temperature is -1, expected 0 or 0.01 to 100". Ids of logit_bias must be
// below vocab_size.
void check_sampling_params(const SamplingParams& params, int64_t vocab_size);

}  // namespace dsr
