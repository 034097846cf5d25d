// moe_gate on CUDA: which kernel takes a call. Definition and shapes: ops/moe.h.
//
//   sm_90, T <= 64, D <= 2048, a bf16 router of 17 to 64 experts    cluster_gate: one kernel
//   anything else                                                  the composition
//
// Both give the same bits. Wider rows and more experts gain nothing by one kernel (README.md).
#include "moe/gate.h"

#include "gemm/linear_kernels.h"

namespace dsr::cuda {
namespace {

std::optional<GateCall> gate_call(Exec& exec, const MoeGateArgs& a) {
  const int64_t T = a.norm.x.shape[0], D = a.norm.x.shape[1], E = a.gate.rows();
  if (exec.cuda().arch() < 90 || T > kMaxDecodeTokens || D > kMaxGateWidth || E > kMaxGateExperts ||
      !norm_is_wide(a.norm) || !can_route(a.route, E))
    return std::nullopt;
  int n_taken = 0;
  const auto gate = dense_weight(a.gate.segments, a.gate.quant, D, n_taken);
  if (!gate || gate->layout.fp8 || n_taken != std::ssize(a.gate.segments) || gate->n_units < 2 ||
      gate->n_units > kMaxGateUnits)
    return std::nullopt;
  return GateCall{.norm = norm_params(a.norm), .gate = *gate, .route = route_params(a.route, E)};
}

}  // namespace

void moe_gate(Exec& exec, const MoeGateArgs& a) {
  if (const auto call = gate_call(exec, a)) return cluster_gate(exec, *call);
  compose_moe_gate(exec, a, {.add_rms_norm = add_rms_norm, .linear = linear, .route = moe_route});
}

}  // namespace dsr::cuda
