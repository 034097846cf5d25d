#include "ops/log_probs.h"

#include "ops/dispatch.h"
#include "tensor/expect.h"

namespace dsr {

void ops::log_probs(Exec& exec, const LogProbsArgs& a) {
  constexpr char kOp[] = "log_probs";
  Dim R{"R"}, V{"V"}, L{"L"}, K{"K"};
  expect(kOp, "logits", a.logits, DType::kF32, {R, V});
  expect(kOp, "token_ids", a.token_ids, DType::kI32, {R});
  expect(kOp, "rows", a.rows, DType::kI32, {L});
  expect(kOp, "log_probs", a.log_probs, DType::kF32, {L});
  expect(kOp, "top_ids", a.top_ids, DType::kI32, {L, K});
  expect(kOp, "top_log_probs", a.top_log_probs, DType::kF32, {L, K});
  DSR_CHECK(K.value() <= V.value(), K.value(), V.value());
  if (L.value() == 0) return;
  DSR_DISPATCH(exec, log_probs, a);
}

}  // namespace dsr
