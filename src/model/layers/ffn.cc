#include "model/layers/ffn.h"

#include "ops/linear.h"
#include "ops/moe.h"

namespace dsr {

void dense_ffn(Rank& rank, const FfnWeights& w, const Tensor& x, const Tensor& out) {
  Exec& exec = rank.exec;
  const Arena::Scope scope(exec.scratch());
  const Tensor hidden = exec.scratch().activation({x.shape[0], w.down_proj.columns()});
  ops::swiglu(exec, {.out = hidden, .x = x, .gate_up = w.gate_up_proj});
  ops::linear(exec, {.out = out, .x = hidden, .w = w.down_proj, .bias = {}});
  rank.comm.all_reduce_sum(exec, out);  // down_proj is row-parallel
}

void moe_ffn(Rank& rank, const ModelConfig& c, const MoeWeights& w, const AddRmsNormArgs& norm,
             const Tensor& out) {
  Exec& exec = rank.exec;
  const int64_t T = norm.x.shape[0], K = c.num_experts_per_tok;
  const Arena::Scope scope(exec.scratch());
  const Tensor ids = exec.scratch().tensor(DType::kI32, {T, K});
  const Tensor weights = exec.scratch().tensor(DType::kF32, {T, K});
  const MoeRouteArgs route = {.expert_ids = ids,
                              .expert_weights = weights,
                              .logits = {},
                              .correction_bias = w.e_score_correction_bias,
                              .scoring_func = c.scoring_func,
                              .group_score = c.group_score,
                              .n_group = c.n_group,
                              .topk_group = c.topk_group,
                              .norm_topk_prob = c.norm_topk_prob,
                              .routed_scaling_factor = static_cast<float>(c.routed_scaling_factor)};
  ops::moe_gate(exec, {.norm = norm, .gate = w.gate, .route = route});
  const MoeExpertsArgs experts = {.out = out,
                                  .x = norm.out,
                                  .expert_ids = ids,
                                  .expert_weights = weights,
                                  .gate_up = w.experts_gate_up,
                                  .down = w.experts_down,
                                  .addend = {}};
  if (c.n_shared_experts > 0)
    ops::moe_with_shared(exec, {.routed = experts,
                                .shared_gate_up = w.shared_experts.gate_up_proj,
                                .shared_down = w.shared_experts.down_proj});
  else
    ops::moe_experts(exec, experts);
  rank.comm.all_reduce_sum(exec, out);  // every rank holds a slice of each expert's width
}

}  // namespace dsr
