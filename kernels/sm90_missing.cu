// In the place of sm_90's own kernels, in a build without them: CudaContext::arch() is 80 there.
#include "attention/mla_kernels.h"
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

void mla_decode_sm90(Exec&, const MlaAttentionArgs&) { missing(); }
bool mla_merges_value(Exec&, const DenseProduct&) { missing(); }
void mla_decode_value_sm90(Exec&, const MlaAttentionArgs&, const DenseProduct&) { missing(); }
void stream_linear(Exec&, const char*, const DenseProduct&) { missing(); }
void stream_swiglu(Exec&, const char*, const DenseProduct&) { missing(); }
bool held_fits(Exec&, const DenseProduct&) { missing(); }
void held_linear(Exec&, const char*, const DenseProduct&) { missing(); }
bool tiles_fit(Exec&, const DenseProduct&) { missing(); }
void tiles_linear(Exec&, const char*, const DenseProduct&) { missing(); }
void tiles_swiglu(Exec&, const char*, const DenseProduct&) { missing(); }
void stream_gate_up(Exec&, const ExpertsCall&) { missing(); }
void stream_down(Exec&, const ExpertsCall&) { missing(); }
void stream_many(Exec&, const ExpertsCall&) { missing(); }
bool stream_few_takes(const ExpertsCall&, const SharedProducts&, int) { missing(); }
void stream_few(Exec&, const ExpertsCall&, const SharedProducts&) { missing(); }
bool stream_takes(ExpertsCall, int) { missing(); }
void wide_linear(Exec&, const char*, const DenseProduct&) { missing(); }
void wide_swiglu(Exec&, const char*, const DenseProduct&) { missing(); }
int wide_expert_tokens(const ExpertsCall&) { missing(); }
void wide_gate_up(Exec&, const ExpertsCall&, const ExpertPlan&) { missing(); }
void wide_down(Exec&, const ExpertsCall&, const ExpertPlan&) { missing(); }
void cluster_gate(Exec&, const GateCall&) { missing(); }
void cluster_choose(Exec&, const SampleParams&, int64_t) { missing(); }

}  // namespace dsr::cuda
