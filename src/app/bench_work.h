// What a step has to read and to compute, by arithmetic.
#pragma once

#include "app/gpu_plan.h"

namespace dsr {

struct BenchWork {
  ModelConfig config;
  ModelSizes sizes;              // kv_bytes_per_token included
  double active_parameters = 0;  // of the matrices of one token, less the head
  double head_parameters = 0;
};
BenchWork bench_work(const ModelConfig& config, const WeightSource& source,
                     int64_t kv_bytes_per_token);

// See step_bytes.
double decode_bytes(const BenchWork& work, int64_t batch, double context);
// Floating-point operations of `batch` prompts of `n` tokens behind `depth` others: two per weight
// and token, the head for the last token, attention with keys and values per head.
double prefill_flop(const BenchWork& work, int64_t batch, int64_t n, int64_t depth);

}  // namespace dsr
