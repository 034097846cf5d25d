// The first half of moe_experts and moe_with_shared for one token on sm_90:
//   hidden[k] = silu(gate_e x) * (up_e x), e = ids[k], and for the shared experts.
//
// Mapping   a unit is 8 rows of gate and the same 8 of up. Every block has its part of the shared
//           experts' units, whose weights it fetches before it knows what the router chose, then
//           its part of the units of all chosen experts (stream_one.cuh).
// Traffic   the gate and up weights of the chosen experts and of the shared ones, once.
#include <algorithm>

#include "moe/stream_one.cuh"

namespace dsr::cuda {
namespace {

struct GateUpPlan {
  int n_stages;  // of the ring
  KeptPlan kept;
  Shares shared, routed;  // units
};
constexpr int kStagesBeforeScales = 3;  // of the chosen experts
constexpr int64_t ring_bytes(int n_stages) {
  return n_stages * (int64_t{sizeof(StreamStage)} + 2 * sizeof(uint64_t)) + sizeof(KeptBarriers);
}

#if __CUDA_ARCH__ >= 900
template <typename W>
class GateUpOne {
 public:
  // 8 rows of gate and of up of the k-th chosen expert; of the shared ones where k is -1.
  struct Unit {
    int k, row;
  };
  __device__ GateUpOne(const ExpertsCall& c, const GateUpPlan& plan, std::byte* x) : c_(c), x_(x) {
    const auto b = static_cast<int>(blockIdx.x), per_expert = (c.F + 7) / 8;
    n_shared_ = plan.shared.n(b);
    // The blocks with more shared units are not those with more routed ones.
    const int r = static_cast<int>(gridDim.x) - 1 - b, first_routed = plan.routed.first(r);
    n_units_ = n_shared_ + plan.routed.n(r);
    first_routed_ = {first_routed / per_expert, first_routed % per_expert * 8};
    first_shared_ = plan.shared.first(b) * 8;
    first_ = n_shared_ > 0 ? Unit{-1, first_shared_} : first_routed_;
    shared_end_ = first_shared_ + n_shared_ * 8;
  }
  __device__ __forceinline__ void choose() { expert_ = chosen_expert(c_); }

  __device__ __forceinline__ int n_shared() const { return n_shared_; }
  __device__ __forceinline__ int n_units() const { return n_units_; }
  __device__ __forceinline__ Unit first() const { return first_; }
  __device__ __forceinline__ void next(Unit& unit) const {
    unit.row += 8;
    if (unit.k < 0 && unit.row >= shared_end_) unit = first_routed_;
    if (unit.k >= 0 && unit.row >= c_.F) unit = {unit.k + 1, 0};
  }
  __device__ __forceinline__ Unit unit(int i) const {
    if (i < n_shared_) return {-1, first_shared_ + i * 8};
    Unit out = {first_routed_.k, first_routed_.row + (i - n_shared_) * 8};
    for (const int per_expert = (c_.F + 7) / 8 * 8; out.row >= per_expert; ++out.k)
      out.row -= per_expert;
    return out;
  }
  __device__ __forceinline__ int blocks_before(int i) const {
    return i * staged_blocks(c_.gate_up.n_steps);
  }
  __device__ __forceinline__ const DenseLayout& layout(const Unit&) const { return c_.gate_up; }
  __device__ __forceinline__ int n_steps(const Unit&) const { return c_.gate_up.n_steps; }
  __device__ __forceinline__ RowPair rows(const Unit& unit, int lane) const {
    if (unit.k < 0)
      return row_pair(c_.gate_up, c_.shared.gate, c_.shared.up, unit.row, unit.row, c_.shared.F - 1,
                      lane);
    return gate_up_rows(c_, __shfl_sync(0xffffffffu, expert_, unit.k), unit.row / 8, lane);
  }
  __device__ __forceinline__ const std::byte* scales(const Unit& unit, int half) const {
    const int expert = __shfl_sync(0xffffffffu, expert_, max(unit.k, 0));
    if (unit.k < 0)
      return scale_row(c_.gate_up, half == 0 ? c_.shared.gate : c_.shared.up, unit.row,
                       c_.shared.F - 1);
    return scale_row(c_.gate_up, segment_of(half == 0 ? c_.weights.gate : c_.weights.up, expert),
                     unit.row, c_.F - 1);
  }
  struct Walk {  // the row is the same one for all
    StagedRow x;
    int n_steps;
    __device__ __forceinline__ void next() const {}
  };
  __device__ __forceinline__ Walk walk() const {
    const int n_steps = c_.gate_up.n_steps;
    return {staged_row<W>(x_, 1, 0, staged_blocks(n_steps)), n_steps};
  }
  __device__ __forceinline__ bool is_sliced(const Unit& unit) const { return unit.k < 0; }
  __device__ __forceinline__ void finish(const Unit& unit, int row, float total, bool there) const {
    const float up = __shfl_down_sync(0xffffffffu, total, 8, 16);
    const int F = unit.k < 0 ? c_.shared.F : c_.F;
    bf16* const to = unit.k < 0 ? c_.shared.hidden : c_.hidden + int64_t{unit.k} * c_.F;
    if (there && row < 8 && unit.row + row < F)
      to[unit.row + row] = from_float<bf16>(silu(total) * up);
  }

 private:
  const ExpertsCall& c_;
  std::byte* const x_;
  Unit first_, first_routed_;
  int n_shared_, n_units_, first_shared_, shared_end_;
  int expert_ = 0;
};
#endif

template <typename W>
__global__ __launch_bounds__(kStreamThreads,
                             2) void gate_up_kernel(const __grid_constant__ ExpertsCall c,
                                                    const __grid_constant__ GateUpPlan plan) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 shared[];
  auto* const stages = reinterpret_cast<StreamStage*>(shared);
  auto* const barriers = reinterpret_cast<uint64_t*>(stages + plan.n_stages);
  const RingView ring = {stages, barriers, barriers + plan.n_stages, plan.n_stages};
  auto* const kept_barriers = reinterpret_cast<KeptBarriers*>(barriers + 2 * plan.n_stages);
  auto* const kept = reinterpret_cast<float*>(kept_barriers + 1);
  std::byte* const x = behind_kept(kept, plan.kept);
  init_kept_barriers(kept_barriers);
  init_ring(ring, /*scaled=*/false, /*ue8m0=*/false);
  using Job = GateUpOne<W>;
  Job job(c, plan, x);
  KeptProducts<W, Job> products(job, kept, plan.kept, kept_barriers);
  if (threadIdx.x >= kConsumers) {
    keep_registers<kFetchRegisters>();
    StreamProducer<W, Job, /*kScales=*/false> producer(job, ring);
    producer.go_to(job.first());
#pragma unroll 1
    for (int part = 0; part < 3; ++part) {  // shared units; a few chosen stages, scales; the rest
      if (part == 1) {
        wait_then_start_next_kernel();  // which weights are wanted is what the last one wrote
        job.choose();
      }
      const int n_stages = part == 0 ? plan.n_stages : part == 1 ? kStagesBeforeScales : 1 << 30;
      producer.run(part == 0 ? job.n_shared() : job.n_units(), n_stages);
      if (part == 1) products.fetch_first_scales();
    }
    return;
  }
  take_registers<kMultiplyRegisters>();
  MultiplyOneToken<W, Job> multiply(job, ring, products);
#pragma unroll 1
  for (int pass = 0; pass < 2; ++pass) {  // what runs once is fetched by a rehearsal
    const bool rehearsal = pass == 0;
    if (!rehearsal) wait_then_start_next_kernel();
    stage_x_by(Stager<W, 2>(staged_in<W>(x, 1, c.gate_up.n_steps), c.x, /*x_stride_bytes=*/0,
                            rehearsal ? 0 : c.gate_up.n_steps));
    consumers_barrier();
    multiply.run(rehearsal);
  }
#endif
}

template <typename W>
int64_t shared_bytes(const ExpertsCall& c, int n_stages, const KeptPlan& kept) {
  return ring_bytes(n_stages) + kept_bytes(kept) + StagedRows<W>::bytes(1, c.gate_up.n_steps);
}
// FP8: the shared experts' units are fewer stages. With one more than these, what the router
// chooses finds some free.
template <typename W>
int stages_beside(const ExpertsCall& c, const KeptPlan& kept) {
  const bool longer = W::kScaled && shared_bytes<W>(c, kStreamStages + 1, kept) <= kHalfSmBytes;
  return longer ? kStreamStages + 1 : kStreamStages;
}

template <typename W>
void run(Exec& exec, const ExpertsCall& c) {
  const int64_t n_shared = (c.shared.F + 7) / 8, n_routed = int64_t{c.K} * ((c.F + 7) / 8);
  const int64_t blocks = stream_blocks(n_routed, exec.cuda().n_sms(), 2);
  const auto most = [&](int64_t n) { return (n + blocks - 1) / blocks; };
  const int64_t n_units = most(n_shared) + most(n_routed);
  const int n_unit = staged_blocks(c.gate_up.n_steps);
  const KeptPlan kept = plan_kept(n_units, n_units * n_unit, n_unit);
  const GateUpPlan plan = {stages_beside<W>(c, kept), kept, Shares::of(n_shared, blocks),
                           Shares::of(n_routed, blocks)};
  launch(exec, "moe_experts",
         {.grid = dim3(static_cast<unsigned>(blocks)),
          .threads = kStreamThreads,
          .shared_bytes = shared_bytes<W>(c, plan.n_stages, kept)},
         gate_up_kernel<W>, c, plan);
}

template <typename W>
bool fits(const ExpertsCall& c) {
  const KeptPlan kept = largest_kept(staged_blocks(c.gate_up.n_steps));
  return shared_bytes<W>(c, stages_beside<W>(c, kept), kept) <= kHalfSmBytes;
}

}  // namespace

bool stream_gate_up_fits(const ExpertsCall& c) {
  return c.K <= kMostChosen && (c.gate_up.fp8 ? fits<Fp8Weight>(c) : fits<Bf16Weight>(c));
}

void stream_gate_up(Exec& exec, const ExpertsCall& c) {
  c.gate_up.fp8 ? run<Fp8Weight>(exec, c) : run<Bf16Weight>(exec, c);
}

}  // namespace dsr::cuda
