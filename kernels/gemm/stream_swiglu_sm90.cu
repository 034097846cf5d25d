// swiglu for up to 64 tokens on sm_90: a unit is 8 rows of gate_proj and the same 8 of up_proj.
// Mapping, order and memory: stream.cuh.
#include "gemm/stream_dense.cuh"

namespace dsr::cuda {

void stream_swiglu(Exec& exec, const char* op, const DenseProduct& p) {
  run_stream<true>(exec, op, p);
}

}  // namespace dsr::cuda
