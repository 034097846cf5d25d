#include "ops/embedding.h"

#include "ops/dispatch.h"
#include "tensor/expect.h"

namespace dsr {

void ops::embedding(Exec& exec, const EmbeddingArgs& a) {
  Dim T{"T"}, D{"D"}, V{"V"}, R{"R"};
  expect("embedding", "out", a.out, exec.activation_dtype(), {T, D});
  expect("embedding", "token_ids", a.token_ids, DType::kI32, {T});
  expect("embedding", "table", a.table, {DType::kBF16, DType::kF16, DType::kF32}, {V, D});
  if (a.drawn.rank() > 0) expect("embedding", "drawn", a.drawn, DType::kI32, {R});
  if (T.value() == 0) return;
  DSR_DISPATCH(exec, embedding, a);
}

}  // namespace dsr
