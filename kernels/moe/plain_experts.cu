// moe_experts for weights that the fast kernels cannot read (gemm/plain.cu says which), in the
// order of the definition.
//
// Mapping   a warp per element of `hidden`, then a warp per element of `out`.
// Traffic   the weights of an expert once per token that wants it, in loads of single elements.
#include "common/ptx.cuh"
#include "gemm/plain_weight.cuh"
#include "gemm/silu.cuh"
#include "moe/expert_kernels.h"

namespace dsr::cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * 32;

__device__ __forceinline__ PlainSegment segment_of(const ExpertSegments& s, int expert) {
  const ExpertEntry& e = s.table[expert];
  return {.data = e.data, .scales = e.scales, .dtype = e.dtype, .scale_dtype = e.scale_dtype};
}

// Grid: F / 8, tokens; all experts of a token in one block.
__global__ __launch_bounds__(kThreads) void hidden_kernel(const __grid_constant__ ExpertsCall c,
                                                          const PlainLayout layout) {
  wait_for_previous_kernel();
  const int64_t f = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32, t = blockIdx.y;
  if (f >= c.F) return;
  const auto* x = reinterpret_cast<const bf16*>(c.x + t * c.x_stride_bytes);
  for (int k = 0; k < c.K; ++k) {
    const int e = c.ids[t * c.ids_stride + k];
    float gate[1], up[1];
    plain_dots(segment_of(c.weights.gate, e), layout, f, x, 0, 1, gate);
    plain_dots(segment_of(c.weights.up, e), layout, f, x, 0, 1, up);
    if (threadIdx.x % 32 == 0)
      c.hidden[(t * c.K + k) * c.F + f] = from_float<bf16>(silu(gate[0]) * up[0]);
  }
}

// Grid: D / 8, tokens.
__global__ __launch_bounds__(kThreads) void out_kernel(const __grid_constant__ ExpertsCall c,
                                                       const PlainLayout layout) {
  wait_for_previous_kernel();
  const int64_t d = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32, t = blockIdx.y;
  if (d >= c.D) return;
  float sum = 0;
  for (int k = 0; k < c.K; ++k) {
    float product[1];
    plain_dots(segment_of(c.weights.down, c.ids[t * c.ids_stride + k]), layout, d,
               c.hidden + (t * c.K + k) * c.F, 0, 1, product);
    sum = __fadd_rn(sum, __fmul_rn(c.chosen[t * c.chosen_stride + k], product[0]));
  }
  if (threadIdx.x % 32 != 0) return;
  store_result(c, t, static_cast<int>(d), sum);
}

dim3 grid(int64_t rows, int64_t T) {
  return dim3(static_cast<unsigned>((rows + kWarps - 1) / kWarps), static_cast<unsigned>(T));
}

}  // namespace

void plain_experts(Exec& exec, const ExpertsCall& c, const QuantScheme& gate_up,
                   const QuantScheme& down) {
  launch(exec, "moe_experts", {.grid = grid(c.F, c.T), .threads = kThreads}, hidden_kernel, c,
         plain_layout(gate_up, c.D));
  launch(exec, "moe_experts", {.grid = grid(c.D, c.T), .threads = kThreads}, out_kernel, c,
         plain_layout(down, c.F));
}

}  // namespace dsr::cuda
