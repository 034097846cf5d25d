#include "ops/moe.h"

#include "ops/dispatch.h"
#include "ops/weight_check.h"

namespace dsr {

namespace {

// All but the logits.
void check_route(const char* op, const MoeRouteArgs& a, Dim& T, Dim& E) {
  Dim K{"K"};
  expect(op, "expert_ids", a.expert_ids, DType::kI32, {T, K});
  expect(op, "expert_weights", a.expert_weights, DType::kF32, {T, K});
  if (a.correction_bias.rank() > 0)
    expect(op, "correction_bias", a.correction_bias, DType::kF32, {E});
  DSR_CHECK(a.n_group >= 1 && E.value() % a.n_group == 0, a.n_group, E.value());
  DSR_CHECK(a.topk_group >= 1 && a.topk_group <= a.n_group, a.topk_group);
  DSR_CHECK(K.value() <= a.topk_group * (E.value() / a.n_group), K.value());
}

}  // namespace

void ops::moe_route(Exec& exec, const MoeRouteArgs& a) {
  constexpr char kOp[] = "moe_route";
  Dim T{"T"}, E{"E"};
  expect(kOp, "logits", a.logits, DType::kF32, {T, E});
  check_route(kOp, a, T, E);
  if (T.value() == 0) return;
  DSR_DISPATCH(exec, moe_route, a);
}

void ops::moe_gate(Exec& exec, const MoeGateArgs& a) {
  constexpr char kOp[] = "moe_gate";
  Dim T{"T"}, D{"D"}, E{"E"};
  expect(kOp, "x", a.norm.x, exec.activation_dtype(), {T, D});
  expect(kOp, "residual", a.norm.residual, exec.activation_dtype(), {T, D});
  expect(kOp, "out", a.norm.out, exec.activation_dtype(), {T, D});
  expect(kOp, "weight", a.norm.weight, DType::kF32, {D});
  expect_weight(kOp, "gate", a.gate, E, D);
  DSR_CHECK(a.route.logits.rank() == 0);
  check_route(kOp, a.route, T, E);
  if (T.value() == 0) return;
  // Who watches sees every step, the logits too, and a plan has room for that; the bits are the
  // same.
  if (exec.watcher() != nullptr || exec.dry_run())
    return compose_moe_gate(exec, a,
                            {.add_rms_norm = add_rms_norm, .linear = linear, .route = moe_route});
  DSR_DISPATCH_NOW(exec, moe_gate, a);
}

void compose_moe_gate(Exec& exec, const MoeGateArgs& a, const MoeGateParts& parts) {
  const Arena::Scope scope(exec.scratch());
  MoeRouteArgs route = a.route;
  route.logits = exec.scratch().tensor(DType::kF32, {a.norm.x.shape[0], a.gate.rows()});
  // In a dry run only ops of cuda run, to take their scratch.
  if (exec.dry_run() && exec.backend() != Backend::kCuda) return;
  parts.add_rms_norm(exec, a.norm);
  parts.linear(exec, {.out = route.logits, .x = a.norm.out, .w = a.gate, .bias = {}});
  parts.route(exec, route);
}

namespace {

void check_experts(const char* op, const Exec& exec, const MoeExpertsArgs& a) {
  Dim T{"T"}, D{"D"}, K{"K"};
  expect(op, "x", a.x, exec.activation_dtype(), {T, D});
  expect(op, "out", a.out, {exec.activation_dtype(), DType::kF32}, {T, D});
  expect(op, "expert_ids", a.expert_ids, DType::kI32, {T, K});
  expect(op, "expert_weights", a.expert_weights, DType::kF32, {T, K});
  const auto E = static_cast<int64_t>(a.down.segments.size());
  DSR_CHECK(E > 0 && static_cast<int64_t>(a.gate_up.segments.size()) == 2 * E, E);
  const int64_t F = a.down.columns();
  expect_weight(op, "down", a.down, E * D.value(), F);
  expect_weight(op, "gate_up", a.gate_up, E * 2 * F, D);
  for (const WeightSegment& s : a.gate_up.segments) DSR_CHECK(s.data.shape[0] == F, s.data.text());
  for (const WeightSegment& s : a.down.segments)
    DSR_CHECK(s.data.shape[0] == D.value(), s.data.text());
  if (a.addend.rank() > 0) expect(op, "addend", a.addend, exec.activation_dtype(), {T, D});
}

}  // namespace

void ops::moe_experts(Exec& exec, const MoeExpertsArgs& a) {
  check_experts("moe_experts", exec, a);
  if (a.x.shape[0] == 0) return;
  DSR_DISPATCH_WITH_SCRATCH(exec, moe_experts, a);
}

void ops::moe_with_shared(Exec& exec, const MoeWithSharedArgs& a) {
  constexpr char kOp[] = "moe_with_shared";
  check_experts(kOp, exec, a.routed);
  DSR_CHECK(a.routed.addend.rank() == 0);
  const int64_t D = a.routed.x.shape[1], F = a.shared_down.columns();
  expect_weight(kOp, "shared_gate_up", a.shared_gate_up, 2 * F, D);
  expect_weight(kOp, "shared_down", a.shared_down, D, F);
  if (a.routed.x.shape[0] == 0) return;
  DSR_DISPATCH_NOW(exec, moe_with_shared, a);  // it takes scratch on every backend
}

void compose_moe_with_shared(Exec& exec, const MoeWithSharedArgs& a, const MoeParts& parts) {
  // What would run in a dry run: every op of cuda, and on cpu the one that takes scratch.
  const bool all = !exec.dry_run() || exec.backend() == Backend::kCuda;
  const bool takes_scratch = all || exec.backend() == Backend::kCpu;
  const Arena::Scope scope(exec.scratch());
  const Tensor& x = a.routed.x;
  MoeExpertsArgs experts = a.routed;
  experts.addend = exec.scratch().activation(x.shape);
  {
    const Arena::Scope hidden_scope(exec.scratch());
    const Tensor hidden = exec.scratch().activation({x.shape[0], a.shared_down.columns()});
    if (all) {
      parts.swiglu(exec, {.out = hidden, .x = x, .gate_up = a.shared_gate_up});
      parts.linear(exec, {.out = experts.addend, .x = hidden, .w = a.shared_down, .bias = {}});
    }
  }
  if (takes_scratch) parts.experts(exec, experts);
}

}  // namespace dsr
