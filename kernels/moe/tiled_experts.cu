// moe_experts for many tokens: a plan, two grouped products, a weighed sum.
//
//   plan      one block: pairs sorted by expert, cut in tiles of pairs of one expert
//   gate_up   hidden[i] = silu(gate x) * (up x), i counting sorted pairs
//   down      products[p] = down hidden[i], in float32, p the pair
//             both in the tiles of gemm/tiled.cuh, on sm_90 in those of gemm/wide.cuh
//   combine   out[t] = sum_k w[t, k] products[t * K + k] + addend[t], k ascending
//
// The order of pairs within an expert is the order in which threads of the plan came, and of no
// consequence: a row of a product does not depend on its neighbours.
//
// Traffic   the weights of every wanted expert once per tile of pairs (from L2 after the first), x
//           K times, products written and read once.
#include <algorithm>

#include "common/rows.cuh"
#include "moe/expert_tile.cuh"

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
      tiles += (count[e] + plan.tile_tokens - 1) / plan.tile_tokens;
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
      for (int done = 0; done < count[e]; done += plan.tile_tokens, ++tiles_before) {
        plan.tile_expert[tiles_before] = e;
        plan.tile_first[tiles_before] = pairs_before + done;
        plan.tile_pairs[tiles_before] = min(plan.tile_tokens, count[e] - done);
      }
      pairs_before += count[e];
    }
  }
  __syncthreads();
  for (int p = tid; p < n; p += kPlanThreads) plan.sorted[atomicAdd(&next[expert_of(p)], 1)] = p;
}

// --- products -----------------------------------------------------------------------------------

// Grid: blocks of 8 units, tiles of pairs (as many as there could be). A tile's activations stay in
// the L2 while it goes through the weights of its expert, and these for the next tile of it.
template <typename W, bool kGateUp>
__global__ __launch_bounds__(kTiledThreads,
                             2) void expert_tile_kernel(const __grid_constant__ ExpertsCall c,
                                                        const __grid_constant__ ExpertPlan plan) {
  extern __shared__ uint4 shared[];
  wait_for_previous_kernel();
  if (static_cast<int>(blockIdx.y) >= *plan.n_tiles) return;
  using Job = ExpertTile<kGateUp, kTiledThreads>;
  const Job job(c, plan);
  Tile<W, Job> tile(job, *reinterpret_cast<TileRing<W>*>(shared));
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
  return T * K / kTiledTokens + std::min(E, T * K);  // wider tiles are fewer
}

void tiled_experts(Exec& exec, const ExpertsCall& c, ExpertPlan plan) {
  const bool wide = exec.cuda().arch() >= 90;
  plan.tile_tokens = wide ? wide_expert_tokens(c) : kTiledTokens;
  launch(exec, "moe_experts: plan", {.grid = dim3(1), .threads = kPlanThreads}, plan_kernel, c,
         plan);
  if (wide) {
    wide_gate_up(exec, c, plan);
    wide_down(exec, c, plan);
  } else {
    c.gate_up.fp8 ? run<Fp8Weight, true>(exec, c, plan) : run<Bf16Weight, true>(exec, c, plan);
    c.down.fp8 ? run<Fp8Weight, false>(exec, c, plan) : run<Bf16Weight, false>(exec, c, plan);
  }
  launch(exec, "moe_experts",
         {.grid = dim3(static_cast<unsigned>(c.T)), .threads = kCombineThreads},
         c.D % 4 == 0 ? combine_kernel<4> : combine_kernel<1>, c, plan.products);
}

}  // namespace dsr::cuda
