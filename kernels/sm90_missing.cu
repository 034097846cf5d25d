// In the place of sm_90's own kernels, in a build without them: CudaContext::arch() is 80 there.
#include "base/error.h"
#include "gemm/linear_kernels.h"
#include "moe/expert_kernels.h"
#include "moe/gate.h"
#include "sampling/choose.cuh"

namespace dsr::cuda {
namespace {

[[noreturn]] void missing() {
  fail_internal("a kernel of sm_90 was chosen in a build without them");
}

}  // namespace

void stream_linear(Exec&, const char*, const DenseProduct&) { missing(); }
void stream_swiglu(Exec&, const char*, const DenseProduct&) { missing(); }
void stream_gate_up(Exec&, const ExpertsCall&) { missing(); }
void stream_down(Exec&, const ExpertsCall&) { missing(); }
void stream_many(Exec&, const ExpertsCall&) { missing(); }
bool stream_takes(ExpertsCall) { missing(); }
void cluster_gate(Exec&, const GateCall&) { missing(); }
void cluster_choose(Exec&, const SampleParams&, int64_t) { missing(); }

}  // namespace dsr::cuda
