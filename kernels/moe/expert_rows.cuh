// Rows of experts as units (gemm/weight_units.cuh).
#pragma once

#include "gemm/weight_units.cuh"
#include "moe/expert_kernels.h"

namespace dsr::cuda {

__device__ __forceinline__ ExpertEntry entry_of(const ExpertSegments& s, int expert) {
  if (s.table != nullptr) return s.table[expert];
  return {s.first.data + expert * s.data_step, s.first.scales + expert * s.scale_step,
          s.first.dtype, s.first.scale_dtype};
}
__device__ __forceinline__ DenseSegment segment_of(const ExpertSegments& s, int expert) {
  const ExpertEntry e = entry_of(s, expert);
  return {.data = e.data, .scales = e.scales, .rows = 0, .first_unit = 0, .column = 0};
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
