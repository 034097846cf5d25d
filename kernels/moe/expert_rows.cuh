// Rows of experts as units (gemm/weight_units.cuh).
#pragma once

#include "gemm/weight_units.cuh"
#include "moe/expert_kernels.h"

namespace dsr::cuda {

__device__ __forceinline__ DenseSegment segment_of(const ExpertSegments& s, int expert) {
  const auto at = [](const std::byte* const* word) {  // the table is as new as ids: not from the L1
    return reinterpret_cast<const std::byte*>(
        __ldcg(reinterpret_cast<const unsigned long long*>(word)));
  };
  const bool regular = s.table == nullptr;
  return {.data = regular ? s.first.data + expert * s.data_step : at(&s.table[expert].data),
          .scales = regular ? s.first.scales + expert * s.scale_step : at(&s.table[expert].scales),
          .rows = 0,
          .first_unit = 0,
          .column = 0};
}

// Unit u of gate and up: 8 rows of each.
__device__ __forceinline__ RowPair gate_up_rows(const ExpertsCall& c, int expert, int u, int lane) {
  RowPair out = row_pair(c.gate_up, segment_of(c.weights.gate, expert),
                         segment_of(c.weights.up, expert), u * 8, u * 8, c.F - 1, lane);
  out.run = run_of(c.F - u * 8, 8);
  return out;
}
// Unit u of down: 16 rows. Other experts' come next, not those that follow.
__device__ __forceinline__ RowPair down_rows(const ExpertsCall& c, int expert, int u, int lane) {
  const DenseSegment s = segment_of(c.weights.down, expert);
  return row_pair(c.down, s, s, u * 16, u * 16 + 8, c.D - 1, lane);
}

}  // namespace dsr::cuda
