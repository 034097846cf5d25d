#include "ops/copy.h"

#include "ops/dispatch.h"
#include "tensor/expect.h"

namespace dsr {

void ops::copy(Exec& exec, const CopyArgs& a) {
  Dim N{"N"};
  expect("copy", "out", a.out, DType::kU8, {N});
  expect("copy", "x", a.x, DType::kU8, {N});
  if (N.value() == 0) return;
  DSR_DISPATCH(exec, copy, a);
}

}  // namespace dsr
