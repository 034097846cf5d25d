#include "ops/gather_rows.h"

#include "ops/dispatch.h"
#include "tensor/expect.h"

namespace dsr {

void ops::gather_rows(Exec& exec, const GatherRowsArgs& a) {
  Dim T{"T"}, R{"R"}, D{"D"};
  expect("gather_rows", "x", a.x, exec.activation_dtype(), {T, D});
  expect("gather_rows", "out", a.out, exec.activation_dtype(), {R, D});
  expect("gather_rows", "row_ids", a.row_ids, DType::kI32, {R});
  if (R.value() == 0) return;
  DSR_DISPATCH(exec, gather_rows, a);
}

}  // namespace dsr
