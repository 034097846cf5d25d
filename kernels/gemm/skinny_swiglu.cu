// swiglu for up to 64 tokens: a unit is 8 rows of gate_proj and the same 8 of up_proj. Mapping,
// order and memory: skinny.cuh.
#include "gemm/skinny_dense.cuh"

namespace dsr::cuda {

void skinny_swiglu(Exec& exec, const char* op, const DenseProduct& p) {
  run_skinny<true>(exec, op, p);
}

}  // namespace dsr::cuda
