#include "ops/sample.h"

#include "base/math.h"
#include "ops/dispatch.h"
#include "tensor/expect.h"

namespace dsr {

void ops::sample(Exec& exec, const SampleArgs& a) {
  constexpr char kOp[] = "sample";
  Dim R{"R"}, V{"V"}, P{"P"}, B{"B"};
  expect(kOp, "logits", a.logits, DType::kF32, {R, V});
  expect(kOp, "token_ids", a.token_ids, DType::kI32, {R});
  expect(kOp, "non_finite", a.non_finite, DType::kI32, {R});
  expect(kOp, "rows", a.rows, DType::kU8, {R, int64_t{sizeof(SampleRow)}});
  expect(kOp, "allowed", a.allowed, DType::kI32, {ceil_div(V.value(), 32)});
  if (a.history.rank() > 0) expect(kOp, "history", a.history, DType::kI32, {P});
  if (a.bias_ids.rank() > 0) {
    expect(kOp, "bias_ids", a.bias_ids, DType::kI32, {B});
    expect(kOp, "bias_values", a.bias_values, DType::kF32, {B});
  }
  if (R.value() == 0) return;
  DSR_DISPATCH(exec, sample, a);
}

}  // namespace dsr
