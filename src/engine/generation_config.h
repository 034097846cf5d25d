// Sampling defaults that a checkpoint ships.
#pragma once

#include "base/json.h"
#include "deepseek_run/log.h"
#include "deepseek_run/sampling_params.h"

namespace dsr {

// generation_config.json over the built-in defaults: temperature, top_p, top_k, min_p,
// repetition_penalty; do_sample false means greedy. A value out of range is one warning and all the
// defaults stay. Other ways to generate that transformers knows (beams, n-gram bans, minimal
// lengths) get a warning each where they would change anything.
SamplingParams sampling_defaults(const Json* generation_config, int64_t vocab_size,
                                 const WarningSink& warn);

// The end-of-sequence ids of config.json and generation_config.json together, below vocab_size.
std::vector<TokenId> eos_ids(const std::vector<int64_t>& from_config, const Json* generation_config,
                             int64_t vocab_size);

}  // namespace dsr
