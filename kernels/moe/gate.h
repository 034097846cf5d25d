// The kernel behind moe_gate, and what it is given.
#pragma once

#include "gemm/dense_weight.h"
#include "moe/route.cuh"
#include "norm/norm_row.cuh"

namespace dsr::cuda {

inline constexpr int64_t kMaxGateWidth = 2048;  // D: a block's part of the router is in registers
inline constexpr int64_t kMaxGateExperts = 64;
inline constexpr int kMaxGateUnits = 4;  // of 16 experts, each two blocks of a cluster

struct GateCall {
  NormParams norm;
  DenseWeight gate;
  RouteParams route;
};

// 1..64 tokens on sm_90, a bf16 router of 2 to 4 units, rows in chunks of 16 bytes.
void cluster_gate(Exec& exec, const GateCall& c);

}  // namespace dsr::cuda
