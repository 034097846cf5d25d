// Mixture of experts: which experts a token goes to, and what they give back.
#pragma once

#include "device/exec.h"
#include "ops/linear.h"
#include "ops/rms_norm.h"
#include "tensor/quant.h"

namespace dsr {

enum class ScoringFunc { kSoftmax, kSigmoid };
// How a group of experts is scored when only topk_group of n_group may be used.
enum class GroupScore {
  kMax,      // group_limited_greedy (V2): the best score in the group
  kTop2Sum,  // noaux_tc (V3): the sum of the two best
};

// The gate (V2 report section 2.2; V3 report, arXiv:2412.19437, section 2.1.2), all in fp32:
//
//   s = scoring_func(logits);   c = s + correction_bias          c decides, s weighs
//   groups other than the topk_group best are out (c = -inf); ids = the K largest c
//   w = s[ids];  if norm_topk_prob: w /= sum(w) + 1e-20;  w *= routed_scaling_factor
//
// Ties go to the lower index, for groups and for experts. A token's ids come in ascending order,
// the order in which its experts are summed.
struct MoeRouteArgs {
  Tensor expert_ids;       // [T, K] i32
  Tensor expert_weights;   // [T, K] f32
  Tensor logits;           // [T, E] f32
  Tensor correction_bias;  // [E] f32 (e_score_correction_bias), or empty
  ScoringFunc scoring_func = ScoringFunc::kSigmoid;
  GroupScore group_score = GroupScore::kTop2Sum;
  int64_t n_group = 1;  // divides E
  int64_t topk_group = 1;
  bool norm_topk_prob = false;
  float routed_scaling_factor = 1;
};

// Where a mixture layer begins: the norm after attention, the router, and the gate.
//
//   add_rms_norm(norm);  logits = linear(norm.out, gate) in fp32;  moe_route(route, logits)
//
// Every step of the composition rounds as it does alone.
struct MoeGateArgs {
  AddRmsNormArgs norm;  // out [T, D]: what the experts take
  Weight gate;          // [E, D], the router
  MoeRouteArgs route;   // without logits
};
// The parts of a backend that moe_gate is composed of where it is not one kernel.
struct MoeGateParts {
  void (*add_rms_norm)(Exec&, const AddRmsNormArgs&);
  void (*linear)(Exec&, const LinearArgs&);
  void (*route)(Exec&, const MoeRouteArgs&);
};
void compose_moe_gate(Exec& exec, const MoeGateArgs& a, const MoeGateParts& parts);

//   out[t] = sum_k w[t, k] down_e( silu(gate_e x) * (up_e x) ),  e = ids[t, k]   (+ addend[t])
//
// Summed in fp32 in ascending expert id, then the addend (the shared experts), rounded once. The
// product silu * up is rounded once to the activation type. Weights of experts that no token wants
// are never read.
struct MoeExpertsArgs {
  Tensor out;             // [T, D] activation, or f32
  Tensor x;               // [T, D] activation
  Tensor expert_ids;      // [T, K] i32, ascending in each row
  Tensor expert_weights;  // [T, K] f32
  // By reference: to copy hundreds of segments takes longer than some ops.
  const Weight& gate_up;  // 2E segments [F, D]: gate_proj and up_proj of expert 0, of expert 1, ...
  const Weight& down;     // E segments [D, F]
  Tensor addend;          // [T, D] activation, or empty
};
// moe_experts with the shared experts, one MLP that every token goes to, as the addend:
//
//   s = linear(swiglu(x, shared_gate_up), shared_down);  moe_experts(..., addend = s)
//
// Every step of the composition rounds as it does alone.
struct MoeWithSharedArgs {
  MoeExpertsArgs routed;         // without an addend
  const Weight& shared_gate_up;  // [2 Fs, D]
  const Weight& shared_down;     // [D, Fs]
};
// The parts of a backend that moe_with_shared is composed of where it is not one kernel.
struct MoeParts {
  void (*swiglu)(Exec&, const SwigluArgs&);
  void (*linear)(Exec&, const LinearArgs&);
  void (*experts)(Exec&, const MoeExpertsArgs&);
};
void compose_moe_with_shared(Exec& exec, const MoeWithSharedArgs& a, const MoeParts& parts);

namespace ops {
void moe_route(Exec& exec, const MoeRouteArgs& a);
void moe_gate(Exec& exec, const MoeGateArgs& a);
void moe_experts(Exec& exec, const MoeExpertsArgs& a);
void moe_with_shared(Exec& exec, const MoeWithSharedArgs& a);
}  // namespace ops
namespace ref {
void moe_route(Exec& exec, const MoeRouteArgs& a);
void moe_gate(Exec& exec, const MoeGateArgs& a);
void moe_experts(Exec& exec, const MoeExpertsArgs& a);
void moe_with_shared(Exec& exec, const MoeWithSharedArgs& a);
}  // namespace ref
namespace cuda {
void moe_route(Exec& exec, const MoeRouteArgs& a);
void moe_gate(Exec& exec, const MoeGateArgs& a);
void moe_experts(Exec& exec, const MoeExpertsArgs& a);
void moe_with_shared(Exec& exec, const MoeWithSharedArgs& a);
}  // namespace cuda
namespace cpu {
void moe_gate(Exec& exec, const MoeGateArgs& a);
void moe_experts(Exec& exec, const MoeExpertsArgs& a);
void moe_route(Exec& exec, const MoeRouteArgs& a);
void moe_with_shared(Exec& exec, const MoeWithSharedArgs& a);
}  // namespace cpu

}  // namespace dsr
