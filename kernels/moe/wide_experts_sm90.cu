// The two grouped products of moe_experts for many tokens on sm_90. Mapping, order and memory:
// gemm/wide.cuh; the steps around them: tiled_experts.cu.
#include "gemm/wide.cuh"
#include "moe/expert_tile.cuh"

namespace dsr::cuda {
namespace {

// Grid: blocks of 8 units, tiles of pairs (as many as there could be).
template <typename W, bool kGateUp, int kTokens>
__global__ __launch_bounds__(kWideThreads, kTokens > 64 ? 1 : 2) void wide_expert_kernel(
    const __grid_constant__ ExpertsCall c, const __grid_constant__ ExpertPlan plan) {
  extern __shared__ uint4 shared[];
  wait_for_previous_kernel();
  if (static_cast<int>(blockIdx.y) >= *plan.n_tiles) return;
  using Job = ExpertTile<kGateUp, kWideThreads>;
  auto& ring = wide_ring<kTokens>(shared);
  const Job job(c, plan);
  WideTile<W, kTokens, Job> tile(job, ring);
  tile.run([] {});
  job.store(reinterpret_cast<const float*>(&ring));
}

template <typename W, bool kGateUp, int kTokens>
void run(Exec& exec, const ExpertsCall& c, const ExpertPlan& plan) {
  const int64_t rows_per_block = kGateUp ? kTiledUnits * 8 : kTiledRows, rows = kGateUp ? c.F : c.D;
  launch(exec, kGateUp ? "moe_experts: gate, up" : "moe_experts: down",
         {.grid = dim3(static_cast<unsigned>((rows + rows_per_block - 1) / rows_per_block),
                       static_cast<unsigned>(max_expert_tiles(c.T, c.K, c.E))),
          .threads = kWideThreads,
          .shared_bytes = kWideBytes<kTokens>},
         wide_expert_kernel<W, kGateUp, kTokens>, c, plan);
}
template <bool kGateUp>
void run(Exec& exec, const ExpertsCall& c, const ExpertPlan& plan) {
  const bool fp8 = kGateUp ? c.gate_up.fp8 : c.down.fp8;
  if (plan.tile_tokens == 64)
    fp8 ? run<Fp8Weight, kGateUp, 64>(exec, c, plan) : run<Bf16Weight, kGateUp, 64>(exec, c, plan);
  else
    fp8 ? run<Fp8Weight, kGateUp, 128>(exec, c, plan)
        : run<Bf16Weight, kGateUp, 128>(exec, c, plan);
}

}  // namespace

// By the pairs of an expert, were all wanted alike: at 48 of them tiles of 64 are a sixth faster,
// at 96 those of 128 by a quarter.
int wide_expert_tokens(const ExpertsCall& c) {
  return int64_t{c.T} * c.K > int64_t{64} * c.E ? 128 : 64;
}
void wide_gate_up(Exec& exec, const ExpertsCall& c, const ExpertPlan& plan) {
  run<true>(exec, c, plan);
}
void wide_down(Exec& exec, const ExpertsCall& c, const ExpertPlan& plan) {
  run<false>(exec, c, plan);
}

}  // namespace dsr::cuda
