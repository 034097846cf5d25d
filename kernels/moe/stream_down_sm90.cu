// The second half of moe_experts and moe_with_shared for one token on sm_90:
//   out = sum_k w[k] down_e hidden[k] + shared, e = ids[k]
//
// Mapping   a block has tiles of 16 rows of out: first the shared experts' units of all of them, by
//           the loop of stream.cuh, whose weights it fetches before it knows what the router chose;
//           then those of the chosen experts, six at a time (stream_units.cuh). The sum over the
//           experts, in ascending order, is made at the end, without atomics.
// Traffic   the down weights of the chosen experts and of the shared ones, once.
#include <algorithm>

#include "moe/stream_units.cuh"

namespace dsr::cuda {
namespace {

#if __CUDA_ARCH__ >= 900
class DownStream {
 public:
  // 16 rows of tile `tile`: of the k-th chosen expert, or of the shared ones where k is -1.
  struct Unit {
    int k, tile;
  };
  // `results`: of every tile the shared experts' sums, as keep_sums() leaves them, then [K, 16].
  __device__ DownStream(const ExpertsCall& c, const ExpertLists& lists, float* results,
                        int first_tile)
      : c_(c), lists_(lists), results_(results), first_tile_(first_tile) {}

  __device__ __forceinline__ void next(Unit& unit) const {
    if (unit.k >= 0 && ++unit.k < c_.K) return;
    unit = {min(unit.k, 0), unit.tile + 1};
  }
  __device__ __forceinline__ const DenseLayout& layout(const Unit& unit) const {
    return unit.k < 0 ? c_.shared.down : c_.down;
  }
  __device__ __forceinline__ RowPair rows(const Unit& unit, int lane) const {
    const int row = unit.tile * 16;
    if (unit.k < 0)
      return row_pair(c_.shared.down, c_.shared.down_rows, c_.shared.down_rows, row, row + 8,
                      c_.D - 1, lane);
    return down_rows(c_, lists_.active[unit.k], unit.tile, lane);
  }
  __device__ __forceinline__ int n_tokens(const Unit&) const { return 1; }
  __device__ __forceinline__ int row(const Unit&, int) const { return 0; }
  __device__ __forceinline__ const std::byte* x(const Unit&, int) const {
    return reinterpret_cast<const std::byte*>(c_.shared.hidden);
  }
  // Of a shared unit.
  __device__ __forceinline__ void finish(const Unit& unit, const float (&acc)[1][4], bool) {
    keep_sums(results(unit.tile), acc, 1);
  }
  // Of a chosen expert's.
  __device__ __forceinline__ void finish_alone(const Unit& unit, const float (&acc)[1][4]) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (lane % 4 != 0) return;
    float* at = results(unit.tile) + one_token_shared_floats() + unit.k * 16 + lane / 4;
    at[0] = acc[0][0];
    at[8] = acc[0][2];
  }
  // By all multiplying warps, at the end.
  __device__ __forceinline__ void store_all(int n_tiles) const {
    consumers_barrier();
    for (int i = static_cast<int>(threadIdx.x); i < n_tiles * 16; i += kConsumers) {
      const int tile = first_tile_ + i / 16, row = i % 16;
      if (tile * 16 + row >= c_.D) continue;
      const float* of_tile = results(tile);
      const float* chosen = of_tile + one_token_shared_floats() + row;
      float sum = 0;
      for (int k = 0; k < c_.K; ++k) sum = fmaf(lists_.weight[k], chosen[k * 16], sum);
      // What linear() would have stored of the shared experts.
      if (c_.shared.F > 0) sum += to_float(from_float<bf16>(total(of_tile, 1, 0, row)));
      store_result(c_, 0, tile * 16 + row, sum);
    }
  }

 private:
  __device__ __forceinline__ float* results(int tile) const {
    return results_ + (tile - first_tile_) * one_token_results_floats(c_.K);
  }

  const ExpertsCall& c_;
  const ExpertLists& lists_;
  float* const results_;
  const int first_tile_;
};
#endif

template <typename W>
__global__ __launch_bounds__(kStreamThreads,
                             1) void down_kernel(const __grid_constant__ ExpertsCall c,
                                                 int most_tiles) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 shared[];
  auto* const ring_memory = reinterpret_cast<Ring<kDownStages>*>(shared);
  const RingView ring = ring_memory->view();
  auto* const results = reinterpret_cast<float*>(ring_memory + 1);
  auto* const x_shared =
      reinterpret_cast<std::byte*>(results + most_tiles * one_token_results_floats(c.K));
  std::byte* const x = x_shared + staged_shared_bytes<W>(c);
  std::byte* const memory = x + StagedRows<W>::bytes(c.K, c.down.n_steps);
  ExpertLists lists;
  init_ring(ring, W::kScaled, c.down.ue8m0);
  const int64_t n = (c.D + 15) / 16, b = blockIdx.x;
  const auto first = static_cast<int>(b * n / gridDim.x);
  const auto n_tiles = static_cast<int>((b + 1) * n / gridDim.x) - first;
  using Job = DownStream;
  Job job(c, lists, results, first);
  const int n_shared = c.shared.F > 0 ? n_tiles : 0;
  const int n_before = n_shared * stages_per_unit(c.shared.down);  // stages
  const int n_routed = n_tiles * c.K;
  Job::Unit unit = {0, first};  // of the chosen experts
  if (threadIdx.x >= kConsumers) {
    StreamProducer<W, Job> producer(job, ring);
    producer.go_to({-1, first});
    producer.run(n_shared, kDownStages);
    // What the router chose is older than the kernel before, which started this one.
    lists = make_lists_for_consumers<8>(c, memory);
    producer.run(n_shared, 1 << 30);
    SlotProducer<W, Job> slots(job, ring, n_before);
    for (int i = 0; i < n_routed; i += kDownStages) {
      const int n_units = min(kDownStages, n_routed - i);
      slots.fetch(unit, n_units, [] {});
      for (int k = 0; k < n_units; ++k) job.next(unit);
    }
    return;
  }
  wait_for_previous_kernel();
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int n_blocks = staged_blocks(c.down.n_steps), pitch = StagedRows<W>::pitch(n_blocks);
  const int n_shared_blocks = staged_blocks(c.shared.down.n_steps);
  float* const shared_units = StagedRows<W>::units(x_shared, 1, n_shared_blocks);
  float* const units = StagedRows<W>::units(x, c.K, n_blocks);
  if (W::kScaled && n_shared > 0)
    stage_rows<W, 1>({reinterpret_cast<const std::byte*>(c.shared.hidden)}, {x_shared},
                     {shared_units}, c.shared.down.n_steps, warp, kStreamWarps);
  for (int k = warp; k < c.K; k += kStreamWarps)
    stage_rows<W, 1>({reinterpret_cast<const std::byte*>(c.hidden + int64_t{k} * c.F)},
                     {x + k * pitch}, {units + k * n_blocks}, c.down.n_steps, 0, 1);
  consumers_barrier();
  RingPlace place;
  if constexpr (W::kScaled) {
    const StagedX staged = {x_shared, shared_units, 1, n_shared_blocks};
    consume<W, 1>(job, ring, place, {-1, first}, n_shared, SharedStagedX{staged});
  } else {
    consume<W, 1>(job, ring, place, {-1, first}, n_shared,
                  XAhead<W, Job>(job, {-1, first}, n_shared));
  }
  lists = lists_of_producers<8>(c, memory);
  if (warp < kDownStages) {
    MySlot slot(ring, slot_of(warp, kDownStages, n_before), n_before, kConsumers);
    for (int k = 0; k < warp; ++k) job.next(unit);
    for (int i = warp; i < n_routed; i += kDownStages) {
      const StagedTile<W> tile[1] = {
          StagedTile<W>::of(x, c.K, n_blocks, [&](int) { return unit.k; })};
      float acc[1][4] = {};
      multiply_unit(c.down, slot, tile, 1, acc);
      job.finish_alone(unit, acc);
      for (int k = 0; k < kDownStages; ++k) job.next(unit);
    }
  }
  job.store_all(n_tiles);
#endif
}

template <typename W>
void run(Exec& exec, const ExpertsCall& c) {
  const int64_t n = (c.D + 15) / 16, blocks = stream_blocks(n, exec.cuda().n_sms(), 1);
  const int most_tiles = narrow((n + blocks - 1) / blocks);
  launch(exec, "moe_experts",
         {.grid = dim3(static_cast<unsigned>(blocks)),
          .threads = kStreamThreads,
          .shared_bytes = std::max(one_token_down_bytes<W>(c, most_tiles), kAloneBytes)},
         down_kernel<W>, c, most_tiles);
}

}  // namespace

void stream_down(Exec& exec, const ExpertsCall& c) {
  c.down.fp8 ? run<Fp8Weight>(exec, c) : run<Bf16Weight>(exec, c);
}

}  // namespace dsr::cuda
