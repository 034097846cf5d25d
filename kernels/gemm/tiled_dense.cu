// linear, swiglu and mla_value for many tokens. Mapping, order and memory: tiled.cuh.
//
// Needs     DenseWeight; x in 16-byte chunks.
// Traffic   from memory the weights once per 1024 tokens; from the L2 the weights once per 64
// tokens
//           and the activations once per 128 rows.
#include "gemm/dense_tile.cuh"

namespace dsr::cuda {
namespace {

// Grid: token tiles times blocks of 8 units.
template <typename W, bool kPaired>
__global__ __launch_bounds__(kTiledThreads,
                             2) void tiled_kernel(const __grid_constant__ DenseProduct p) {
  extern __shared__ uint4 shared[];
  using Job = DenseTile<kPaired, kTiledTokens, kTiledThreads>;
  const Job job(p);
  Tile<W, Job> tile(job, *reinterpret_cast<TileRing<W>*>(shared));
  tile.run([] { wait_for_previous_kernel(); });
  job.store(reinterpret_cast<const float*>(shared));
}

template <typename W, bool kPaired>
void run(Exec& exec, const char* op, const DenseProduct& p) {
  launch(exec, op,
         {.grid = dim3(dense_tile_blocks(p, kTiledTokens)),
          .threads = kTiledThreads,
          .shared_bytes = sizeof(TileRing<W>)},
         tiled_kernel<W, kPaired>, p);
}

}  // namespace

void tiled_linear(Exec& exec, const char* op, const DenseProduct& p) {
  p.w.layout.fp8 ? run<Fp8Weight, false>(exec, op, p) : run<Bf16Weight, false>(exec, op, p);
}
void tiled_swiglu(Exec& exec, const char* op, const DenseProduct& p) {
  p.w.layout.fp8 ? run<Fp8Weight, true>(exec, op, p) : run<Bf16Weight, true>(exec, op, p);
}

}  // namespace dsr::cuda
