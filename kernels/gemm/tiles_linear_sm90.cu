// linear for 9 to 64 tokens on sm_90. Mapping, order and memory: stream_tiles.cuh.
#include "gemm/stream_tiles.cuh"

namespace dsr::cuda {

bool tiles_fit(Exec& exec, const DenseProduct& p) {
  if (p.w.n_units != p.w.units_per_group) return false;  // groups have activations of their own
  return with_cluster_tiles(exec, p, [](auto, auto) {});
}

void tiles_linear(Exec& exec, const char* op, const DenseProduct& p) {
  run_tiles<false>(exec, op, p);
}

}  // namespace dsr::cuda
