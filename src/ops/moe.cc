#include "ops/moe.h"

#include "ops/dispatch.h"
#include "ops/weight_check.h"

namespace dsr {

void ops::moe_route(Exec& exec, const MoeRouteArgs& a) {
  constexpr char kOp[] = "moe_route";
  Dim T{"T"}, E{"E"}, K{"K"};
  expect(kOp, "logits", a.logits, DType::kF32, {T, E});
  expect(kOp, "expert_ids", a.expert_ids, DType::kI32, {T, K});
  expect(kOp, "expert_weights", a.expert_weights, DType::kF32, {T, K});
  if (a.correction_bias.rank() > 0)
    expect(kOp, "correction_bias", a.correction_bias, DType::kF32, {E});
  DSR_CHECK(a.n_group >= 1 && E.value() % a.n_group == 0, a.n_group, E.value());
  DSR_CHECK(a.topk_group >= 1 && a.topk_group <= a.n_group, a.topk_group);
  DSR_CHECK(K.value() <= a.topk_group * (E.value() / a.n_group), K.value());
  if (T.value() == 0) return;
  DSR_DISPATCH(exec, moe_route, a);
}

void ops::moe_experts(Exec& exec, const MoeExpertsArgs& a) {
  constexpr char kOp[] = "moe_experts";
  Dim T{"T"}, D{"D"}, K{"K"};
  expect(kOp, "x", a.x, exec.activation_dtype(), {T, D});
  expect(kOp, "out", a.out, {exec.activation_dtype(), DType::kF32}, {T, D});
  expect(kOp, "expert_ids", a.expert_ids, DType::kI32, {T, K});
  expect(kOp, "expert_weights", a.expert_weights, DType::kF32, {T, K});
  const auto E = static_cast<int64_t>(a.down.segments.size());
  DSR_CHECK(E > 0 && static_cast<int64_t>(a.gate_up.segments.size()) == 2 * E, E);
  const int64_t F = a.down.columns();
  expect_weight(kOp, "down", a.down, E * D.value(), F);
  expect_weight(kOp, "gate_up", a.gate_up, E * 2 * F, D);
  for (const WeightSegment& s : a.gate_up.segments) DSR_CHECK(s.data.shape[0] == F, s.data.text());
  for (const WeightSegment& s : a.down.segments)
    DSR_CHECK(s.data.shape[0] == D.value(), s.data.text());
  if (a.addend.rank() > 0) expect(kOp, "addend", a.addend, exec.activation_dtype(), {T, D});
  if (T.value() == 0) return;
  DSR_DISPATCH_WITH_SCRATCH(exec, moe_experts, a);
}

}  // namespace dsr
