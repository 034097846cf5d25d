// moe_gate for few tokens on sm_90: add_rms_norm, the router and moe_route in one kernel, with the
// bits of the three. Definition and shapes: ops/moe.h.
//
// Mapping   a cluster per token, a block for each 16 experts. Every block norms the row for
//           itself, as rms_norm.cu does, and multiplies it by its rows of the router, which its
//           warps share out over K and sum as stream.cuh does; the logits travel to block 0, where
//           one warp chooses the experts (route.cuh) while the others store the rows. These are
//           stored when all logits are there: then every block has read what they replace.
// Needs     D <= 2048, 2 to 8 units of router rows, E <= 64, rows in 16-byte chunks.
// Traffic   the router once per token, E * D * 2 bytes, into registers while the kernel before
//           runs, and 8 D bytes of rows. Latency only.
#include "moe/gate.h"

#include "gemm/stream.cuh"

namespace dsr::cuda {
namespace {

constexpr int kThreads = kNormThreads, kWarps = kThreads / 32;
static_assert(kMaxGateExperts <= kThreads, "a thread has an expert");
static_assert(kWarps == kStreamWarps, "K is shared out as stream.cuh does");
// Blocks of 128 bytes of 16 rows that a warp holds, each in 16 registers of every thread.
constexpr int kHeld = 4;
static_assert(kHeld * kWarps * 128 >= kMaxGateWidth * 2, "a row is in registers");
constexpr int kChunks = kMaxGateWidth / (8 * kThreads);  // of the row in every thread
constexpr int kExpertsPerLane = kMaxGateExperts / 32;

struct GateShared {
  float sums[kWarps * kStreamSumStride];
  float logits[kMaxGateExperts];  // of block 0: from all blocks
  float bias[kMaxGateExperts];    // of block 0
  float route[kMaxGateExperts];   // of route_token
  float partial_sums[kWarps];
  uint64_t arrived;  // of block 0: all logits have
};
constexpr int64_t kRowsOffset = (int64_t{sizeof(GateShared)} + 15) / 16 * 16;

#if __CUDA_ARCH__ >= 900
// What this warp multiplies of its block's 16 rows of the router.
class RouterRows {
 public:
  // Before the kernel before has ended.
  __device__ __forceinline__ RouterRows(const DenseWeight& w, int unit) : w_(w) {
    const RowPair rows = rows_of<false>(w, unit, lane());
#pragma unroll
    for (int h = 0; h < kHeld; ++h) {
      held_[h] = {};  // zeros past the end of a row
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int step = 2 * (warp() + h * kWarps) + i;
        if (step >= w.layout.n_steps) break;
        held_[h].low[i] = load_once(rows.low + step * 64);
        held_[h].high[i] = load_once(rows.high + step * 64);
      }
    }
  }
  // Its share of the rows times x, in shared memory: the sums of add_block() of stream.cuh, but two
  // blocks side by side.
  __device__ __forceinline__ void multiply(const bf16* x, float (&acc)[4]) const {
#pragma unroll
    for (int h = 0; h < kHeld; h += 2) multiply_two(x, warp() + h * kWarps, &held_[h], acc);
  }

 private:
  struct Block {
    uint4 low[2], high[2];  // of row g and g + 8, in both steps
  };
  __device__ __forceinline__ void multiply_two(const bf16* x, int first, const Block* held,
                                               float (&acc)[4]) const {
    uint4 x_tile[2][2];
#pragma unroll
    for (int h = 0; h < 2; ++h) load_x(x, 2 * (first + h * kWarps), x_tile[h]);
    float sums[2][2][4] = {};
#pragma unroll
    for (int p = 0; p < Bf16Weight::kProducts; ++p) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          uint32_t a[4];
          product_weights(Bf16Weight{}, held[h].low[i], held[h].high[i], p, a);
          mma_bf16(sums[h][i], a, word_of(x_tile[h][i], 2 * p), word_of(x_tile[h][i], 2 * p + 1));
        }
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h)  // zeros past the last block
#pragma unroll
      for (int k = 0; k < 4; ++k) acc[k] += sums[h][0][k] + sums[h][1][k];
  }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ static int warp() { return static_cast<int>(threadIdx.x) / 32; }
  __device__ __forceinline__ void load_x(const bf16* x, int step, uint4 (&out)[2]) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const auto* from = reinterpret_cast<const uint4*>(x + (step + i) * Bf16Weight::kStepColumns);
      out[i] = step + i < w_.layout.n_steps ? from[lane() % 4] : make_uint4(0, 0, 0, 0);
    }
  }

  const DenseWeight& w_;
  Block held_[kHeld];
};

// By all warps but the first.
__device__ __forceinline__ void store_row(bf16* to, const bf16* from, int D) {
#pragma unroll 2
  for (int i = static_cast<int>(threadIdx.x) - 32; i < D / 8; i += kThreads - 32)
    reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(from)[i];
}
#endif

__global__ __launch_bounds__(kThreads, 2) void gate_kernel(const __grid_constant__ GateCall c) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 memory[];
  auto& shared = *reinterpret_cast<GateShared*>(memory);
  auto* x = reinterpret_cast<bf16*>(reinterpret_cast<std::byte*>(memory) + kRowsOffset);  // [D]
  bf16* residual = x + c.norm.D;                                                          // [D]
  const int unit = static_cast<int>(rank_in_cluster());
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const bool first = unit == 0;
  const int64_t t = blockIdx.x / c.gate.n_units;
  if (threadIdx.x == 0) {
    init_barrier(&shared.arrived, 1);
    publish_barriers();
  }
  arrive_at_cluster();
  const RouterRows router(c.gate, unit);
  NormRow<8, kChunks, /*kEarlyWeights=*/true> row;
  row.fetch_weights(c.norm);
  const bool has_bias = c.route.bias != nullptr;
  const int e = static_cast<int>(threadIdx.x);
  if (first && has_bias && e < c.route.E) shared.bias[e] = c.route.bias[e];
  wait_for_previous_kernel();

  const float squares = warp_sum(row.load(c.norm, t));
  if (threadIdx.x % 32 == 0) shared.partial_sums[warp] = squares;
  if (first) row.store_sum(c.norm.D, residual);
  __syncthreads();
  if (threadIdx.x == 0) arrive_expecting(&shared.arrived, static_cast<uint32_t>(c.route.E) * 4);
  row.store_normed(c.norm, sum_of_warps(shared.partial_sums, kWarps), x);
  __syncthreads();
  float acc[1][4] = {};
  router.multiply(x, acc[0]);
  keep_sums<1>(shared.sums, acc, /*n=*/1);
  const UnitPlace place = place_of(c.gate, unit);
  const int n_rows = min(16, place.segment.rows - place.first_row);
  float* logits = &shared.logits[place.segment.column + place.first_row];
  wait_for_cluster();  // block 0 is there, and its barrier
  __syncthreads();
  if (e < n_rows)
    send(/*rank=*/0, &logits[e], total(shared.sums, /*n=*/1, /*token=*/0, e), &shared.arrived);
  if (!first) return;
  wait_barrier(&shared.arrived, 0);
  if (warp == 0) {
    route_token<kExpertsPerLane>(c.route, t, shared.logits, has_bias ? shared.bias : nullptr,
                                 shared.route);
  } else {
    store_row(c.norm.residual + t * c.norm.residual_stride, residual, c.norm.D);
    store_row(c.norm.out + t * c.norm.out_stride, x, c.norm.D);
  }
#endif
}

}  // namespace

void cluster_gate(Exec& exec, const GateCall& c) {
  const auto n_units = static_cast<unsigned>(c.gate.n_units);
  launch(exec, "moe_gate",
         {.grid = dim3(static_cast<unsigned>(c.route.T) * n_units),
          .threads = kThreads,
          .shared_bytes = kRowsOffset + 4 * int64_t{c.norm.D},
          .cluster = n_units},
         gate_kernel, c);
}

}  // namespace dsr::cuda
