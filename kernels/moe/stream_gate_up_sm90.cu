// The first half of moe_experts and moe_with_shared for one token on sm_90:
//   hidden[k] = silu(gate_e x) * (up_e x), e = ids[k], and for the shared experts.
//
// Mapping   a unit is 8 rows of gate and the same 8 of up. Every block first has its part of the
//           shared experts' units, by the loop of stream.cuh, whose weights it fetches before it
//           knows what the router chose; then its part of the units of all chosen experts, four at
//           a time, by that of stream_units.cuh.
// Traffic   the gate and up weights of the chosen experts and of the shared ones, once.
#include <algorithm>

#include "moe/stream_units.cuh"

namespace dsr::cuda {
namespace {

#if __CUDA_ARCH__ >= 900
class GateUpStream {
 public:
  // 8 rows of gate and of up of an active expert; of the shared ones where `active` is -1.
  struct Unit {
    int active, row;
  };
  __device__ GateUpStream(const ExpertsCall& c, const ExpertLists& lists, float* sums)
      : c_(c), lists_(lists), held_(sums, 1) {
    const int64_t n = (c.shared.F + 7) / 8, b = blockIdx.x;
    const auto first = static_cast<int>(b * n / gridDim.x);
    n_shared_ = static_cast<int>((b + 1) * n / gridDim.x) - first;
    first_shared_ = {-1, first * 8};
    // The blocks with more shared units are not those with more routed ones.
    const int per_expert = (c.F + 7) / 8;
    const int64_t n_routed = int64_t{c.K} * per_expert, r = gridDim.x - 1 - b;
    const auto first_routed = static_cast<int>(r * n_routed / gridDim.x);
    n_routed_ = static_cast<int>((r + 1) * n_routed / gridDim.x) - first_routed;
    first_routed_ = {first_routed / per_expert, first_routed % per_expert * 8};
  }
  __device__ __forceinline__ int n_shared() const { return n_shared_; }
  __device__ __forceinline__ int n_routed() const { return n_routed_; }
  __device__ __forceinline__ Unit first_shared() const { return first_shared_; }
  __device__ __forceinline__ Unit first_routed() const { return first_routed_; }

  __device__ __forceinline__ void next(Unit& unit) const {
    unit.row += 8;
    if (unit.active >= 0 && unit.row >= c_.F) unit = {unit.active + 1, 0};
  }
  __device__ __forceinline__ const DenseLayout& layout(const Unit&) const { return c_.gate_up; }
  __device__ __forceinline__ RowPair rows(const Unit& unit, int lane) const {
    if (unit.active < 0)
      return row_pair(c_.gate_up, c_.shared.gate, c_.shared.up, unit.row, unit.row, c_.shared.F - 1,
                      lane);
    return gate_up_rows(c_, lists_.active[unit.active], unit.row / 8, lane);
  }
  __device__ __forceinline__ int n_tokens(const Unit&) const { return 1; }
  __device__ __forceinline__ int row(const Unit&, int) const { return 0; }
  __device__ __forceinline__ const std::byte* x(const Unit&, int) const { return c_.x; }
  // Of a shared unit.
  __device__ __forceinline__ void finish(const Unit& unit, const float (&acc)[1][4], bool last) {
    held_.template keep<8>(*this, unit, acc, last);
  }
  __device__ __forceinline__ void store(const Unit& unit, int, int row, const float* sums) const {
    if (unit.row + row >= c_.shared.F) return;
    c_.shared.hidden[unit.row + row] =
        from_float<bf16>(silu(total(sums, 1, 0, row)) * total(sums, 1, 0, row + 8));
  }
  // Of a routed one.
  __device__ __forceinline__ void finish_alone(const Unit& unit, const float (&acc)[1][4]) const {
    const int lane = static_cast<int>(threadIdx.x) % 32, row = unit.row + lane / 4;
    if (lane % 4 == 0 && row < c_.F)
      c_.hidden[int64_t{unit.active} * c_.F + row] = from_float<bf16>(silu(acc[0][0]) * acc[0][2]);
  }

 private:
  const ExpertsCall& c_;
  const ExpertLists& lists_;
  HeldSums<Unit, 1> held_;
  Unit first_shared_, first_routed_;
  int n_shared_, n_routed_;
};
#endif

template <typename W>
__global__ __launch_bounds__(kStreamThreads,
                             2) void gate_up_kernel(const __grid_constant__ ExpertsCall c) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 shared[];
  auto* const ring_memory = reinterpret_cast<StreamRing*>(shared);
  const RingView ring = ring_memory->view();
  auto* sums = reinterpret_cast<float*>(ring_memory + 1);
  std::byte* const x = reinterpret_cast<std::byte*>(sums) + held_sums_bytes(1);
  std::byte* const memory = x + StagedRows<W>::bytes(1, c.gate_up.n_steps);
  ExpertLists lists;
  init_ring(ring, W::kScaled, c.gate_up.ue8m0);
  using Job = GateUpStream;
  Job job(c, lists, sums);
  const int n_before = job.n_shared() * stages_per_unit(c.gate_up);  // stages
  if (threadIdx.x >= kConsumers) {
    StreamProducer<W, Job> producer(job, ring);
    producer.go_to(job.first_shared());
    producer.run(job.n_shared(), kStreamStages);
    wait_then_start_next_kernel();  // which weights are wanted is what the last one wrote
    lists = make_lists_of_fetching<8>(c, memory);
    producer.run(job.n_shared(), 1 << 30);
    SlotProducer<W, Job> slots(job, ring, n_before);
    Job::Unit unit = job.first_routed();
    for (int i = 0; i < job.n_routed(); i += kStreamStages) {
      const int n = min(kStreamStages, job.n_routed() - i);
      slots.fetch(unit, n, [] {});
      for (int k = 0; k < n; ++k) job.next(unit);
    }
    return;
  }
  wait_then_start_next_kernel();
  const int n_blocks = staged_blocks(c.gate_up.n_steps);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  stage_rows<W, 1>({c.x}, {x}, {StagedRows<W>::units(x, 1, n_blocks)}, c.gate_up.n_steps, warp,
                   kStreamWarps);
  consumers_barrier();
  RingPlace place;
  if constexpr (W::kScaled) {
    const StagedX staged = {x, StagedRows<W>::units(x, 1, n_blocks), 1, n_blocks};
    consume<W, 1>(job, ring, place, job.first_shared(), job.n_shared(), SharedStagedX{staged});
  } else {
    consume<W, 1>(job, ring, place, job.first_shared(), job.n_shared(),
                  XAhead<W, Job>(job, job.first_shared(), job.n_shared()));
  }
  if (warp >= kStreamStages) return;
  const StagedTile<W> tile[1] = {StagedTile<W>::of(x, 1, n_blocks, [](int) { return 0; })};
  MySlot slot(ring, slot_of(warp, kStreamStages, n_before), n_before, kConsumers);
  Job::Unit unit = job.first_routed();
  for (int k = 0; k < warp; ++k) job.next(unit);
  for (int i = warp; i < job.n_routed(); i += kStreamStages) {
    float acc[1][4] = {};
    multiply_unit(c.gate_up, slot, tile, 1, acc);
    job.finish_alone(unit, acc);
    for (int k = 0; k < kStreamStages; ++k) job.next(unit);
  }
#endif
}

template <typename W>
void run(Exec& exec, const ExpertsCall& c) {
  const int64_t blocks = stream_blocks(int64_t{c.K} * ((c.F + 7) / 8), exec.cuda().n_sms(), 2);
  launch(exec, "moe_experts",
         {.grid = dim3(static_cast<unsigned>(blocks)),
          .threads = kStreamThreads,
          .shared_bytes = one_token_gate_up_bytes<W>(c)},
         gate_up_kernel<W>, c);
}

}  // namespace

void stream_gate_up(Exec& exec, const ExpertsCall& c) {
  c.gate_up.fp8 ? run<Fp8Weight>(exec, c) : run<Bf16Weight>(exec, c);
}

}  // namespace dsr::cuda
