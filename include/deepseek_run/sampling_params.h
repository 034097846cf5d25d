// How the next token is chosen.
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
  int64_t penalty_window = 64;    // last tokens the penalties see: 0 (none) .. 2^20, -1: all
  std::vector<std::pair<TokenId, double>> logit_bias;  // id, -100 .. 100; at most 1024
  uint64_t seed = 0;
  int64_t sample_index = 0;  // which of several answers to one prompt: 0 .. 2^20

  bool operator==(const SamplingParams&) const = default;
};

// Throws Error(kUsage) "temperature is -1, expected 0 or 0.01 to 100". Ids of logit_bias must be
// below vocab_size.
void check_sampling_params(const SamplingParams& params, int64_t vocab_size);

}  // namespace dsr
