// linear and mla_value for up to 64 tokens on sm_90. Mapping, order and memory: stream.cuh.
//
// Needs     DenseWeight; x in 16-byte chunks.
// Traffic   the weights once, and per block the activations once through L1.
#include "gemm/stream_dense.cuh"

namespace dsr::cuda {

void stream_linear(Exec& exec, const char* op, const DenseProduct& p) {
  run_stream<false>(exec, op, p);
}

}  // namespace dsr::cuda
