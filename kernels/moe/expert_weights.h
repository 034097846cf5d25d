// Where the weights of experts lie. A loader places them at equal distances, so that a pointer and
// a step say it; otherwise a table in device memory does.
#pragma once

#include "common/launch.h"
#include "gemm/dense_weight.h"
#include "ops/moe.h"

namespace dsr::cuda {

struct ExpertEntry {
  const std::byte* data;
  const std::byte* scales;
  DType dtype, scale_dtype;
};

// One projection of all experts.
struct ExpertSegments {
  ExpertEntry first;
  int64_t data_step, scale_step;  // bytes from one expert to the next
  const ExpertEntry* table;       // [E], or null: first and the steps say it
};

struct ExpertWeights {
  ExpertSegments gate, up, down;
};

// Bytes of scratch for the table, taken whether it is needed or not.
int64_t expert_table_bytes(const MoeExpertsArgs& a);
// Writes the table if it is needed; `always` for kernels that read nothing else.
ExpertWeights expert_weights(Exec& exec, const MoeExpertsArgs& a, const Tensor& table, bool always);

}  // namespace dsr::cuda
