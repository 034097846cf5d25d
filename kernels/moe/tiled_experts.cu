// moe_experts for many tokens: a plan, two grouped products, a weighed sum.
//
//   plan      one block: pairs sorted by expert, cut in tiles of 64 pairs of one expert
//   gate_up   hidden[i] = silu(gate x) * (up x), i counting sorted pairs      tiled.cuh
//   down      products[p] = down hidden[i], in float32, p the pair            tiled.cuh
//   combine   out[t] = sum_k w[t, k] products[t * K + k] + addend[t], k ascending
//
// The order of pairs within an expert is the order in which threads of the plan came, and of no
// consequence: a row of a product does not depend on its neighbours.
//
// Traffic   the weights of every wanted expert once per 64 pairs (from L2 after the first), x K
//           times, products written and read once.
#include <algorithm>

#include "common/rows.cuh"
#include "gemm/tiled.cuh"
#include "moe/expert_rows.cuh"

namespace dsr::cuda {
namespace {

// --- plan ---------------------------------------------------------------------------------------

constexpr int kPlanThreads = 1024;

__global__ __launch_bounds__(kPlanThreads) void plan_kernel(const __grid_constant__ ExpertsCall c,
                                                            const ExpertPlan plan) {
  __shared__ int count[kMaxExperts], next[kMaxExperts];
  wait_for_previous_kernel();
  const int tid = static_cast<int>(threadIdx.x), n = c.T * c.K;
  const auto expert_of = [&](int p) { return c.ids[p / c.K * c.ids_stride + p % c.K]; };
  for (int e = tid; e < c.E; e += kPlanThreads) count[e] = 0;
  __syncthreads();
  for (int p = tid; p < n; p += kPlanThreads) atomicAdd(&count[expert_of(p)], 1);
  __syncthreads();
  if (tid < 32) {  // a lane takes a run of experts; runs are joined by a scan
    const int per_lane = (c.E + 31) / 32, e0 = tid * per_lane, e1 = min(e0 + per_lane, c.E);
    int pairs = 0, tiles = 0;
    for (int e = e0; e < e1; ++e) {
      pairs += count[e];
      tiles += (count[e] + kTiledTokens - 1) / kTiledTokens;
    }
    int pairs_before = pairs, tiles_before = tiles;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int a = __shfl_up_sync(0xffffffffu, pairs_before, offset);
      const int b = __shfl_up_sync(0xffffffffu, tiles_before, offset);
      if (tid >= offset) {
        pairs_before += a;
        tiles_before += b;
      }
    }
    if (tid == 31) *plan.n_tiles = tiles_before;
    pairs_before -= pairs;
    tiles_before -= tiles;
    for (int e = e0; e < e1; ++e) {
      next[e] = pairs_before;
      for (int done = 0; done < count[e]; done += kTiledTokens, ++tiles_before) {
        plan.tile_expert[tiles_before] = e;
        plan.tile_first[tiles_before] = pairs_before + done;
        plan.tile_pairs[tiles_before] = min(kTiledTokens, count[e] - done);
      }
      pairs_before += count[e];
    }
  }
  __syncthreads();
  for (int p = tid; p < n; p += kPlanThreads) plan.sorted[atomicAdd(&next[expert_of(p)], 1)] = p;
}

// --- products -----------------------------------------------------------------------------------

template <bool kGateUp>
class ExpertTile {
 public:
  __device__ ExpertTile(const ExpertsCall& c, const ExpertPlan& plan)
      : c_(c),
        plan_(plan),
        expert_(plan.tile_expert[blockIdx.y]),
        first_(plan.tile_first[blockIdx.y]),
        n_(plan.tile_pairs[blockIdx.y]),
        first_unit_(static_cast<int>(blockIdx.x) * kTiledUnits) {}

  __device__ __forceinline__ const DenseLayout& layout() const {
    return kGateUp ? c_.gate_up : c_.down;
  }
  __device__ __forceinline__ RowPair rows(int slot, int lane) const {
    if constexpr (kGateUp) return gate_up_rows(c_, expert_, first_unit_ + slot, lane);
    return down_rows(c_, expert_, first_unit_ + slot, lane);
  }
  __device__ __forceinline__ const std::byte* x() const {
    return kGateUp ? c_.x : reinterpret_cast<const std::byte*>(c_.hidden);
  }
  __device__ __forceinline__ uint32_t x_offset(int i) const {
    if (i >= n_) return kNoToken;
    if constexpr (kGateUp)
      return static_cast<uint32_t>(plan_.sorted[first_ + i] / c_.K) *
             static_cast<uint32_t>(c_.x_stride_bytes);
    return static_cast<uint32_t>(first_ + i) * static_cast<uint32_t>(c_.F * 2);
  }
  __device__ __forceinline__ void store(const float* tile) const {
    const int tid = static_cast<int>(threadIdx.x);
    if constexpr (kGateUp) {
      const int f = tid % 64, column = first_unit_ * 8 + f;
      if (column >= c_.F) return;
      for (int i = tid / 64; i < n_; i += kTiledThreads / 64) {
        const float* at = tile + i * kTileStride + f / 8 * 16 + f % 8;
        c_.hidden[int64_t{first_ + i} * c_.F + column] = from_float<bf16>(silu(at[0]) * at[8]);
      }
    } else {
      const int column = first_unit_ * 16 + tid;
      if (column >= c_.D) return;
      for (int i = 0; i < n_; ++i)
        plan_.products[int64_t{plan_.sorted[first_ + i]} * c_.D + column] =
            tile[i * kTileStride + tid];
    }
  }

 private:
  const ExpertsCall& c_;
  const ExpertPlan& plan_;
  int expert_, first_, n_, first_unit_;
};

// Grid: blocks of 8 units, tiles of pairs (as many as there could be). A tile's activations stay in
// the L2 while it goes through the weights of its expert, and these for the next tile of it.
template <typename W, bool kGateUp>
__global__ __launch_bounds__(kTiledThreads,
                             2) void expert_tile_kernel(const __grid_constant__ ExpertsCall c,
                                                        const __grid_constant__ ExpertPlan plan) {
  extern __shared__ uint4 shared[];
  wait_for_previous_kernel();
  if (static_cast<int>(blockIdx.y) >= *plan.n_tiles) return;
  const ExpertTile<kGateUp> job(c, plan);
  Tile<W, ExpertTile<kGateUp>> tile(job, *reinterpret_cast<TileRing<W>*>(shared));
  tile.run([] {});
  job.store(reinterpret_cast<const float*>(shared));
}

template <typename W, bool kGateUp>
void run(Exec& exec, const ExpertsCall& c, const ExpertPlan& plan) {
  const int64_t rows_per_block = kGateUp ? kTiledUnits * 8 : kTiledRows, rows = kGateUp ? c.F : c.D;
  launch(exec, "moe_experts",
         {.grid = dim3(static_cast<unsigned>((rows + rows_per_block - 1) / rows_per_block),
                       static_cast<unsigned>(max_expert_tiles(c.T, c.K, c.E))),
          .threads = kTiledThreads,
          .shared_bytes = sizeof(TileRing<W>)},
         expert_tile_kernel<W, kGateUp>, c, plan);
}

// --- combine ------------------------------------------------------------------------------------

constexpr int kCombineThreads = 256;

// Grid: tokens. Products are rounded before they are added, as the definition has it.
template <int kWidth>
__global__ __launch_bounds__(kCombineThreads) void combine_kernel(
    const __grid_constant__ ExpertsCall c, const float* products) {
  wait_for_previous_kernel();
  const int64_t t = blockIdx.x;
  for (int d = static_cast<int>(threadIdx.x) * kWidth; d < c.D; d += kCombineThreads * kWidth) {
    float sum[kWidth] = {};
    for (int k = 0; k < c.K; ++k) {
      const float weight = c.chosen[t * c.chosen_stride + k];
      float y[kWidth];
      load_floats(products + (t * c.K + k) * c.D + d, y);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) sum[i] = __fadd_rn(sum[i], __fmul_rn(weight, y[i]));
    }
#pragma unroll
    for (int i = 0; i < kWidth; ++i) store_result(c, t, d + i, sum[i]);
  }
}

}  // namespace

int64_t max_expert_tiles(int64_t T, int64_t K, int64_t E) {
  return T * K / kTiledTokens + std::min(E, T * K);
}

void tiled_experts(Exec& exec, const ExpertsCall& c, const ExpertPlan& plan) {
  launch(exec, "moe_experts", {.grid = dim3(1), .threads = kPlanThreads}, plan_kernel, c, plan);
  c.gate_up.fp8 ? run<Fp8Weight, true>(exec, c, plan) : run<Bf16Weight, true>(exec, c, plan);
  c.down.fp8 ? run<Fp8Weight, false>(exec, c, plan) : run<Bf16Weight, false>(exec, c, plan);
  launch(exec, "moe_experts",
         {.grid = dim3(static_cast<unsigned>(c.T)), .threads = kCombineThreads},
         c.D % 4 == 0 ? combine_kernel<4> : combine_kernel<1>, c, plan.products);
}

}  // namespace dsr::cuda
