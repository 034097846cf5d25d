// linear and mla_value for up to 64 tokens. Mapping, order and memory: skinny.cuh.
//
// Needs     DenseWeight; x in 16-byte chunks.
// Traffic   the weights once, and per block the activations once through L1.
#include "gemm/skinny_dense.cuh"

namespace dsr::cuda {

void skinny_linear(Exec& exec, const char* op, const DenseProduct& p) {
  run_skinny<false>(exec, op, p);
}

}  // namespace dsr::cuda
