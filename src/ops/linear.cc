#include "ops/linear.h"

#include "ops/dispatch.h"
#include "ops/weight_check.h"

namespace dsr {

void ops::linear(Exec& exec, const LinearArgs& a) {
  Dim T{"T"}, N{"N"}, K{"K"};
  expect("linear", "x", a.x, exec.activation_dtype(), {T, K});
  expect("linear", "out", a.out, {exec.activation_dtype(), DType::kF32}, {T, N});
  expect_weight("linear", "w", a.w, N, K);
  if (a.bias.rank() > 0) expect("linear", "bias", a.bias, DType::kF32, {N});
  if (T.value() == 0) return;
  DSR_DISPATCH(exec, linear, a);
}

void ops::swiglu(Exec& exec, const SwigluArgs& a) {
  Dim T{"T"}, F{"F"}, K{"K"};
  expect("swiglu", "x", a.x, exec.activation_dtype(), {T, K});
  expect("swiglu", "out", a.out, exec.activation_dtype(), {T, F});
  expect_weight("swiglu", "gate_up", a.gate_up, 2 * F.value(), K);
  if (T.value() == 0) return;
  DSR_DISPATCH(exec, swiglu, a);
}

}  // namespace dsr
