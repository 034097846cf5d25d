#include "ops/rms_norm.h"

#include "ops/dispatch.h"
#include "tensor/expect.h"

namespace dsr {

void ops::rms_norm(Exec& exec, const RmsNormArgs& a) {
  Dim T{"T"}, D{"D"};
  expect("rms_norm", "x", a.x, exec.activation_dtype(), {T, D});
  expect("rms_norm", "out", a.out, exec.activation_dtype(), {T, D});
  expect("rms_norm", "weight", a.weight, DType::kF32, {D});
  if (T.value() == 0) return;
  DSR_DISPATCH(exec, rms_norm, a);
}

void ops::add_rms_norm(Exec& exec, const AddRmsNormArgs& a) {
  Dim T{"T"}, D{"D"};
  expect("add_rms_norm", "x", a.x, exec.activation_dtype(), {T, D});
  expect("add_rms_norm", "residual", a.residual, exec.activation_dtype(), {T, D});
  expect("add_rms_norm", "out", a.out, exec.activation_dtype(), {T, D});
  expect("add_rms_norm", "weight", a.weight, DType::kF32, {D});
  if (T.value() == 0) return;
  DSR_DISPATCH(exec, add_rms_norm, a);
}

}  // namespace dsr
