// linear, swiglu and mla_value for many tokens on sm_90. Mapping, order and memory: wide.cuh.
//
// Needs     DenseWeight; x in 16-byte chunks.
// Traffic   from memory the weights once per 16 tiles of tokens; from the L2 the weights once per
//           tile and the activations once per 128 rows.
#include "gemm/dense_tile.cuh"
#include "gemm/wide.cuh"

namespace dsr::cuda {
namespace {

// Also for few: 64 tokens a block took longer at every shape from 512 tokens on.
constexpr int kTokens = 128;

// Grid: token tiles times blocks of 8 units.
template <typename W, bool kPaired>
__global__ __launch_bounds__(kWideThreads,
                             1) void wide_kernel(const __grid_constant__ DenseProduct p) {
  extern __shared__ uint4 shared[];
  using Job = DenseTile<kPaired, kTokens, kWideThreads>;
  auto& ring = wide_ring<kTokens>(shared);
  const Job job(p);
  WideTile<W, kTokens, Job> tile(job, ring);
  tile.run([] { wait_for_previous_kernel(); });
  job.store(reinterpret_cast<const float*>(&ring));
}

template <typename W, bool kPaired>
void run(Exec& exec, const char* op, const DenseProduct& p) {
  launch(exec, op,
         {.grid = dim3(dense_tile_blocks(p, kTokens)),
          .threads = kWideThreads,
          .shared_bytes = kWideBytes<kTokens>},
         wide_kernel<W, kPaired>, p);
}

}  // namespace

void wide_linear(Exec& exec, const char* op, const DenseProduct& p) {
  p.w.layout.fp8 ? run<Fp8Weight, false>(exec, op, p) : run<Bf16Weight, false>(exec, op, p);
}
void wide_swiglu(Exec& exec, const char* op, const DenseProduct& p) {
  p.w.layout.fp8 ? run<Fp8Weight, true>(exec, op, p) : run<Bf16Weight, true>(exec, op, p);
}

}  // namespace dsr::cuda
