// swiglu for 9 to 64 tokens on sm_90: a unit is 8 rows of gate_proj and the same 8 of up_proj.
// Mapping, order and memory: stream_tiles.cuh.
#include "gemm/stream_tiles.cuh"

namespace dsr::cuda {

void tiles_swiglu(Exec& exec, const char* op, const DenseProduct& p) {
  run_tiles<true>(exec, op, p);
}

}  // namespace dsr::cuda
