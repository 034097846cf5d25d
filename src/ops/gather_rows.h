// Picks the rows whose logits are wanted:  out[i] = x[row_ids[i]].
#pragma once

#include "device/exec.h"

namespace dsr {

struct GatherRowsArgs {
  Tensor out;      // [R, D] activation
  Tensor x;        // [T, D] activation
  Tensor row_ids;  // [R] i32, each in [0, T)
};
namespace ops {
void gather_rows(Exec& exec, const GatherRowsArgs& a);
}
namespace ref {
void gather_rows(Exec& exec, const GatherRowsArgs& a);
}
namespace cuda {
void gather_rows(Exec& exec, const GatherRowsArgs& a);
}
namespace cpu {
using ref::gather_rows;
}

}  // namespace dsr
