// moe_gate on CUDA. Definition and shapes: ops/moe.h.
#include "ops/moe.h"

namespace dsr::cuda {

void moe_gate(Exec& exec, const MoeGateArgs& a) {
  compose_moe_gate(exec, a, {.add_rms_norm = add_rms_norm, .linear = linear, .route = moe_route});
}

}  // namespace dsr::cuda
