// The first half of moe_experts and moe_with_shared for up to 64 tokens on sm_90:
//   hidden[p] = silu(gate_e x) * (up_e x) for every pair p = (token, expert), and for the shared
//   experts, which every token goes to.
//
// Mapping   stream.cuh over units of 8 rows of gate and the same 8 of up; an expert's tokens, 8
//           at a time, are the columns of the product. Every block first has its part of the shared
//           experts' units, whose weights it fetches before it knows what the router chose, then
//           its part of the units of all wanted experts.
// Traffic   the gate and up weights of every wanted expert and of the shared ones, once per 8
//           tokens: the registers of a second tile would leave no room for a second block.
#include <algorithm>

#include "gemm/stream.cuh"
#include "moe/expert_rows.cuh"
#include "moe/stream_lists.cuh"

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
      : c_(c), lists_(lists), held_(sums, min(c.T, kExpertTokens)) {
    const int64_t n = (c.shared.F + 7) / 8, b = blockIdx.x;
    const auto first = static_cast<int>(b * n / gridDim.x);
    n_shared_ = static_cast<int>((b + 1) * n / gridDim.x) - first;
    first_shared_ = {-1, first * 8};
  }
  // Once the lists are there. The blocks with more shared units are not those with more routed
  // ones.
  __device__ __forceinline__ void find_routed() {
    const int per_expert = (c_.F + 7) / 8;
    const int64_t n = int64_t{lists_.n_active} * per_expert, b = gridDim.x - 1 - blockIdx.x;
    const auto first = static_cast<int>(b * n / gridDim.x);
    n_routed_ = static_cast<int>((b + 1) * n / gridDim.x) - first;
    const int active = first / per_expert;
    first_routed_ = {active, (first - active * per_expert) * 8};
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
  __device__ __forceinline__ int n_tokens(const Unit& unit) const {
    if (unit.active < 0) return c_.T;
    return lists_.start[unit.active + 1] - lists_.start[unit.active];
  }
  __device__ __forceinline__ int row(const Unit& unit, int i) const {
    return unit.active < 0 ? i : lists_.token[lists_.start[unit.active] + i];
  }
  __device__ __forceinline__ const std::byte* x(const Unit&, int row) const {
    return c_.x + row * c_.x_stride_bytes;
  }
  __device__ __forceinline__ void finish(const Unit& unit, const float (&acc)[1][4], bool last) {
    held_.template keep<8>(*this, unit, acc, last);
  }
  __device__ __forceinline__ void store(const Unit& unit, int token, int row,
                                        const float* sums) const {
    const bool shared = unit.active < 0;
    const int F = shared ? c_.shared.F : c_.F, n = n_tokens(unit);
    if (unit.row + row >= F) return;
    bf16* to = shared ? c_.shared.hidden + int64_t{token} * F
                      : c_.hidden + int64_t{lists_.pair[lists_.start[unit.active] + token]} * F;
    to[unit.row + row] =
        from_float<bf16>(silu(total(sums, n, token, row)) * total(sums, n, token, row + 8));
  }

 private:
  const ExpertsCall& c_;
  const ExpertLists& lists_;
  HeldSums<Unit, 1> held_;
  Unit first_shared_, first_routed_ = {0, 0};
  int n_shared_, n_routed_ = 0;
};
#endif

template <typename W, bool kStaged>
__global__ __launch_bounds__(kStreamThreads, kStreamBlocksPerSm<W, 1, kStaged>) void gate_up_kernel(
    const __grid_constant__ ExpertsCall c) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 shared[];
  auto& ring = *reinterpret_cast<StreamRing*>(shared);
  auto* sums = reinterpret_cast<float*>(&ring + 1);
  auto* memory = reinterpret_cast<std::byte*>(sums) + held_sums_bytes(min(c.T, kExpertTokens));
  std::byte* const x = memory;
  if constexpr (kStaged) memory += staged_bytes(c.T, c.gate_up.n_steps);
  ExpertLists lists;
  init_ring(ring, W::kScaled, c.gate_up.ue8m0);
  using Job = GateUpStream;
  Job job(c, lists, sums);
  if (threadIdx.x >= kConsumers) {
    StreamProducer<W, Job> producer(job, ring);
    producer.go_to(job.first_shared());
    producer.run(job.n_shared(), kStreamStages);
    wait_then_start_next_kernel();  // which weights are wanted is what the last one wrote
    lists = make_lists_for_consumers(c, memory);
    job.find_routed();
    producer.run(job.n_shared(), 1 << 30);
    producer.go_to(job.first_routed());
    producer.run(job.n_shared() + job.n_routed(), 1 << 30);
    return;
  }
  wait_then_start_next_kernel();
  RingPlace place;
  if constexpr (kStaged) {
    const StagedX staged = staged_in(x, c.T, c.gate_up.n_steps);
    stage_x(staged, c.x, c.x_stride_bytes, c.gate_up.n_steps);
    consumers_barrier();
    consume<W, 1>(job, ring, place, job.first_shared(), job.n_shared(), SharedStagedX{staged});
    lists = lists_of_producers(c, memory);
    job.find_routed();
    consume<W, 1>(job, ring, place, job.first_routed(), job.n_routed(), SharedStagedX{staged});
  } else {
    using X = XAhead<W, Job>;
    consume<W, 1>(job, ring, place, job.first_shared(), job.n_shared(),
                  X(job, job.first_shared(), job.n_shared()));
    lists = lists_of_producers(c, memory);
    job.find_routed();
    consume<W, 1>(job, ring, place, job.first_routed(), job.n_routed(),
                  X(job, job.first_routed(), job.n_routed()));
  }
#endif
}

int64_t shared_bytes(const ExpertsCall& c, bool staged) {
  return int64_t{sizeof(StreamRing)} + held_sums_bytes(std::min(c.T, kExpertTokens)) +
         stream_lists_bytes(c) + (staged ? staged_bytes(c.T, c.gate_up.n_steps) : 0);
}

template <typename W, bool kStaged>
void run(Exec& exec, const ExpertsCall& c) {
  const int64_t routed = std::min<int64_t>(c.E, int64_t{c.T} * c.K) * ((c.F + 7) / 8);
  const int64_t blocks =
      stream_blocks(routed, exec.cuda().n_sms(), kStreamBlocksPerSm<W, 1, kStaged>);
  launch(exec, "moe_experts",
         {.grid = dim3(static_cast<unsigned>(blocks)),
          .threads = kStreamThreads,
          .shared_bytes = shared_bytes(c, kStaged)},
         gate_up_kernel<W, kStaged>, c);
}

}  // namespace

void stream_gate_up(Exec& exec, const ExpertsCall& c) {
  if (!c.gate_up.fp8)
    run<Bf16Weight, false>(exec, c);
  else if (shared_bytes(c, true) <= kHalfSmBytes)
    run<Fp8Weight, true>(exec, c);
  else
    run<Fp8Weight, false>(exec, c);
}

}  // namespace dsr::cuda
