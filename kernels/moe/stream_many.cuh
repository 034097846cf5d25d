// What a block of moe_experts for 2 to 64 tokens on sm_90 has in shared memory, and how it goes
// through its units: all wanted experts', expert after expert. See stream_many_sm90.cu.
#pragma once

#include <algorithm>

#include "gemm/stream_dense.cuh"
#include "moe/stream_units.cuh"

namespace dsr::cuda {

// Of a block's shared memory: the slots, staged activations of one or two experts, or of the shared
// ones, lists, their sums, barriers.
struct ManyMemory {
  int n_slots, n_buffers;
  int64_t x_bytes, shared_x_bytes, lists_bytes, sums_bytes;

  __host__ __device__ int64_t x_at() const { return n_slots * int64_t{sizeof(StreamStage)}; }
  __host__ __device__ int64_t lists_at() const {
    const int64_t buffers = n_buffers * x_bytes;
    return x_at() + (buffers > shared_x_bytes ? buffers : shared_x_bytes);
  }
  __host__ __device__ int64_t sums_at() const { return lists_at() + lists_bytes; }
  __host__ __device__ int64_t barriers_at() const { return sums_at() + sums_bytes; }
  __host__ __device__ int64_t bytes() const {
    return barriers_at() + (2 * n_slots + 2 * n_buffers) * 8;
  }
};
inline constexpr int kMostSlots = kStreamWarps, kLeastSlots = 4;
inline constexpr int kLeastFewSlots = 6;  // with fewer the shared experts are better alone

// As many slots as there is room for, and one buffer where this makes it more. Nothing fits where
// n_slots is less than kLeastSlots.
inline ManyMemory with_slots(ManyMemory m) {
  const auto slots = [&] {
    m.n_slots = 0;
    const int64_t left = kSmBytes - m.bytes();
    return std::clamp<int64_t>(left / (int64_t{sizeof(StreamStage)} + 16), 0, kMostSlots);
  };
  if (slots() < kMostSlots) m.n_buffers = 1;
  m.n_slots = static_cast<int>(slots());
  return m;
}
template <int kTiles>
int64_t aligned_lists_bytes(const ExpertsCall& c) {
  return (stream_lists_bytes<8 * kTiles>(c) + 15) / 16 * 16;
}
template <typename W, int kTiles>
ManyMemory memory_of(const ExpertsCall& c, const DenseLayout& l) {
  return with_slots({.n_slots = 0,
                     .n_buffers = 2,
                     .x_bytes = StagedRows<W>::bytes(8 * kTiles, l.n_steps),
                     .shared_x_bytes = 0,
                     .lists_bytes = aligned_lists_bytes<kTiles>(c),
                     .sums_bytes = 0});
}
// With shared experts whose activations have so many steps.
template <typename W, bool kDown>
ManyMemory memory_with_shared(const ExpertsCall& c, int n_shared_steps) {
  const int64_t shared_x = StagedRows<W>::bytes(c.T, n_shared_steps);
  return with_slots({.n_slots = 0,
                     .n_buffers = kDown ? 2 : 1,
                     .x_bytes = kDown ? StagedRows<W>::bytes(8, c.down.n_steps) : shared_x,
                     .shared_x_bytes = W::kScaled ? shared_x : 0,
                     .lists_bytes = aligned_lists_bytes<1>(c),
                     .sums_bytes = held_sums_bytes(c.T)});
}

#if __CUDA_ARCH__ >= 900
// A unit of an active expert, and the row where it begins.
struct ExpertUnit {
  int active, row;
};
// n_rows rows to an expert, kRows to a unit.
template <int kRows>
struct ExpertUnits {
  using Unit = ExpertUnit;
  static constexpr int kUnitRows = kRows;
  __device__ __forceinline__ static void go_on(Unit& unit, int n_rows) {
    unit.row += kRows;
    if (unit.row >= n_rows) unit = {unit.active + 1, 0};
  }
  ExpertLists lists;
};

class GateUpMany : public ExpertUnits<8> {
 public:
  static constexpr bool kDown = false;
  __device__ explicit GateUpMany(const ExpertsCall& c) : c_(c) {}
  __device__ __forceinline__ static int n_rows(const ExpertsCall& c) { return c.F; }
  __device__ __forceinline__ const DenseLayout& layout(const Unit&) const { return c_.gate_up; }
  __device__ __forceinline__ RowPair rows(const Unit& unit, int lane) const {
    return gate_up_rows(c_, lists.active[unit.active], unit.row / kUnitRows, lane);
  }
  __device__ __forceinline__ void next(Unit& unit) const { go_on(unit, c_.F); }
  // Of the i-th pair in the lists.
  __device__ __forceinline__ const std::byte* x(int i) const {
    return c_.x + lists.token[i] * c_.x_stride_bytes;
  }
  // acc: rows g and g + 8, of the pairs `pair` and the one after it, of which n are there.
  __device__ __forceinline__ void store(const Unit& unit, int first, int n,
                                        const float (&acc)[4]) const {
    const int row = unit.row + static_cast<int>(threadIdx.x) % 32 / 4;
    if (row >= c_.F) return;
#pragma unroll
    for (int i = 0; i < 2; ++i)
      if (i < n)
        c_.hidden[int64_t{lists.pair[first + i]} * c_.F + row] =
            from_float<bf16>(silu(acc[i]) * acc[i + 2]);
  }

 private:
  const ExpertsCall& c_;
};

class DownMany : public ExpertUnits<16> {
 public:
  static constexpr bool kDown = true;
  __device__ explicit DownMany(const ExpertsCall& c) : c_(c) {}
  __device__ __forceinline__ static int n_rows(const ExpertsCall& c) { return c.D; }
  __device__ __forceinline__ const DenseLayout& layout(const Unit&) const { return c_.down; }
  __device__ __forceinline__ RowPair rows(const Unit& unit, int lane) const {
    return down_rows(c_, lists.active[unit.active], unit.row / kUnitRows, lane);
  }
  __device__ __forceinline__ void next(Unit& unit) const { go_on(unit, c_.D); }
  __device__ __forceinline__ const std::byte* x(int i) const {
    return reinterpret_cast<const std::byte*>(c_.hidden + int64_t{lists.pair[i]} * c_.F);
  }
  __device__ __forceinline__ void store(const Unit& unit, int first, int n,
                                        const float (&acc)[4]) const {
    const int row = unit.row + static_cast<int>(threadIdx.x) % 32 / 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (i >= n) continue;
      float* to = c_.products + int64_t{lists.pair[first + i]} * c_.D + row;
      if (row < c_.D) to[0] = acc[i];
      if (row + 8 < c_.D) to[8] = acc[i + 2];
    }
  }

 private:
  const ExpertsCall& c_;
};

// What a block has of all units, and its staged activations: run r is its r-th active expert.
// kShared: shared experts come before these, and what every token's x is lies staged already.
template <typename W, int kTiles, typename Job, bool kShared>
class ManyBlock {
  static constexpr bool kCommonX = kShared && !Job::kDown;
  static constexpr int kArrivals = kShared ? kConsumers : 32;  // that make a slot empty

 public:
  using Unit = ExpertUnit;
  __device__ ManyBlock(const ExpertsCall& c, const ManyMemory& m, std::byte* memory)
      : c_(c),
        m_(m),
        memory_(memory),
        per_expert_((Job::n_rows(c) + Job::kUnitRows - 1) / Job::kUnitRows),
        job_(c) {
    auto* barriers = reinterpret_cast<uint64_t*>(memory + m.barriers_at());
    slots_ = {reinterpret_cast<StreamStage*>(memory), barriers, barriers + m.n_slots, m.n_slots};
    x_full_ = barriers + 2 * m.n_slots;
    x_empty_ = x_full_ + m.n_buffers;
  }
  // All threads.
  __device__ __forceinline__ void init(const DenseLayout& l) {
    if (threadIdx.x == 0) {
      init_ring(slots_, kArrivals, W::kScaled, l.ue8m0);
      for (int i = 0; i < m_.n_buffers; ++i) {
        init_barrier(&x_full_[i], kFetchWarps * 32);
        init_barrier(&x_empty_[i], kConsumers);
      }
      publish_barriers();
    }
    __syncthreads();
  }
  __device__ __forceinline__ const RingView& slots() const { return slots_; }

  // The fetching warps, when n_before stages of the shared experts have been fetched, which the
  // last are by before_units(). Calls before_activations() when they may fetch nothing more but
  // these.
  template <typename BeforeUnits, typename BeforeActivations>
  __device__ __forceinline__ void fetch(int n_before, const BeforeUnits& before_units,
                                        const BeforeActivations& before_activations) {
    job_.lists = make_lists_for_consumers<8 * kTiles>(c_, memory_ + m_.lists_at());
    find_units();
    before_units();
    SlotProducer<W, Job> producer(job_, slots_, n_before);
    Unit unit = first_;
    int run = -1;  // whose activations are there
    for (int i = 0; i < n_units_;) {
      const int n = group(i, unit);
      const Unit next = after(unit, n);
      const int last_run = after(unit, n - 1).active - first_.active;
      producer.fetch(unit, n, [&] {
        if (kCommonX) return;
        if (run < 0) before_activations();
        for (; run < last_run; ++run) stage(run + 1);
      });
      unit = next;
      i += n;
    }
  }
  // All others, before multiply(): the activations of all tokens, for the shared experts.
  __device__ __forceinline__ StagedX stage_tokens(const DenseProduct& p) {
    const int n_steps = p.w.layout.n_steps, n_blocks = staged_blocks(n_steps);
    const StagedX to = {memory_ + m_.x_at(),
                        StagedRows<W>::units(memory_ + m_.x_at(), p.n_tokens, n_blocks), p.n_tokens,
                        n_blocks};
    const int warp = static_cast<int>(threadIdx.x) / 32, n_parts = kStreamWarps / p.n_tokens;
    const int row = warp % p.n_tokens, part = warp / p.n_tokens;
    if (part < n_parts)
      stage_rows<W, 1>({p.x + row * p.x_stride_bytes},
                       {to.rows + row * StagedRows<W>::pitch(n_blocks)},
                       {to.units + row * n_blocks}, n_steps, part, n_parts);
    consumers_barrier();
    return to;
  }
  // A thread of theirs has done with the shared experts.
  __device__ __forceinline__ void leave_shared() {
    if constexpr (kShared && !kCommonX)
      for (int i = 0; i < m_.n_buffers; ++i) arrive(&x_empty_[i]);
  }
  __device__ __forceinline__ void multiply(int n_before) {
    job_.lists = lists_of_producers<8 * kTiles>(c_, memory_ + m_.lists_at());
    find_units();
    const DenseLayout& l = job_.layout(first_);
    const int warp = static_cast<int>(threadIdx.x) / 32, t = static_cast<int>(threadIdx.x) % 4;
    if (warp >= slots_.n_stages) return go_to_run(-1, n_runs_ - 1);
    MySlot slot(slots_, slot_of(warp, slots_.n_stages, n_before), n_before, kArrivals);
    Unit unit = first_;
    int run = -1;
    StagedTile<W> x[kTiles];
    for (int i = 0; i < n_units_;) {
      const int n = group(i, unit);
      if (warp < n) {
        const Unit mine = after(unit, warp);
        if (run != mine.active - first_.active) {
          go_to_run(run, mine.active - first_.active);
          run = mine.active - first_.active;
          find_x(mine.active, x);
        }
        const int begin = job_.lists.start[mine.active];
        const int n_tokens = job_.lists.start[mine.active + 1] - begin;
        float acc[kTiles][4] = {};
        multiply_unit(l, slot, x, (n_tokens + 7) / 8, acc);
#pragma unroll
        for (int j = 0; j < kTiles; ++j)
          job_.store(mine, begin + j * 8 + 2 * t, n_tokens - j * 8 - 2 * t, acc[j]);
      }
      unit = after(unit, n);
      i += n;
    }
    go_to_run(run, n_runs_ - 1);
  }

 private:
  __device__ __forceinline__ void find_units() {
    // The blocks with more shared units are not those with more routed ones.
    const int64_t n = int64_t{job_.lists.n_active} * per_expert_;
    const int64_t b = kShared ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
    const auto first = static_cast<int>(b * n / gridDim.x);
    n_units_ = static_cast<int>((b + 1) * n / gridDim.x) - first;
    const int at = first % per_expert_;
    first_ = {first / per_expert_, at * Job::kUnitRows};
    n_runs_ = n_units_ == 0 ? 0 : (at + n_units_ + per_expert_ - 1) / per_expert_;
  }
  // n units further.
  __device__ __forceinline__ Unit after(Unit unit, int n) const {
    unit.row += n * Job::kUnitRows;
    for (const int rows = per_expert_ * Job::kUnitRows; unit.row >= rows; unit.row -= rows)
      ++unit.active;
    return unit;
  }
  // How many units from `unit`, the block's i-th, the slots take together: of as many runs at most
  // as there are buffers for, or nobody would ever be done with the first of them.
  __device__ __forceinline__ int group(int i, const Unit& unit) const {
    const int n = min(slots_.n_stages, n_units_ - i);
    return kCommonX ? n : min(n, m_.n_buffers * per_expert_ - unit.row / Job::kUnitRows);
  }
  __device__ __forceinline__ std::byte* buffer(int run) const {
    return memory_ + m_.x_at() + run % m_.n_buffers * m_.x_bytes;
  }
  // Parity of the phase in which a run's activations come, and in which its buffer became empty;
  // after the shared experts, which have them all, that is one later.
  __device__ __forceinline__ uint32_t parity(int run) const { return run / m_.n_buffers & 1; }
  __device__ __forceinline__ uint32_t empty_parity(int run) const {
    return parity(run) ^ (kShared ? 0 : 1);
  }

  // By all fetching warps.
  __device__ __forceinline__ void stage(int run) {
    const int n_steps = job_.layout(first_).n_steps, n_blocks = staged_blocks(n_steps);
    const int warp = static_cast<int>(threadIdx.x - kConsumers) / 32;
    const int active = first_.active + run, begin = job_.lists.start[active];
    const int n = job_.lists.start[active + 1] - begin;
    std::byte* const rows = buffer(run);
    float* const units = StagedRows<W>::units(rows, 8 * kTiles, n_blocks);
    const auto from = [&](int i) { return i < n ? job_.x(begin + i) : nullptr; };
    const auto to = [&](int i) { return rows + i * StagedRows<W>::pitch(n_blocks); };
    wait_barrier(&x_empty_[run % m_.n_buffers], empty_parity(run));
    for (int i = warp; i < n; i += 2 * kFetchWarps) {
      const int k = i + kFetchWarps;
      stage_rows<W, 2>({from(i), from(k)}, {to(i), to(k)},
                       {units + i * n_blocks, units + k * n_blocks}, n_steps, 0, 1);
    }
    arrive(&x_full_[run % m_.n_buffers]);
  }
  // A multiplying warp goes from one run to a later one, -1 is before the first: past every one in
  // between, or it would take one phase of a barrier for another.
  __device__ __forceinline__ void go_to_run(int run, int to) {
    while (!kCommonX && run < to) {
      if (run >= 0) arrive(&x_empty_[run % m_.n_buffers]);
      ++run;
      wait_barrier(&x_full_[run % m_.n_buffers], parity(run));
    }
  }
  __device__ __forceinline__ void find_x(int active, StagedTile<W> (&x)[kTiles]) const {
    const int n_blocks = staged_blocks(job_.layout(first_).n_steps);
    const int begin = job_.lists.start[active], last = job_.lists.start[active + 1] - 1;
#pragma unroll
    for (int j = 0; j < kTiles; ++j)
      x[j] = kCommonX ? StagedTile<W>::of(
                            memory_ + m_.x_at(), c_.T, n_blocks,
                            [&](int i) { return job_.lists.token[min(begin + j * 8 + i, last)]; })
                      : StagedTile<W>::of(buffer(active - first_.active), 8 * kTiles, n_blocks,
                                          [&](int i) { return j * 8 + i; });
  }

  const ExpertsCall& c_;
  const ManyMemory& m_;
  std::byte* const memory_;
  const int per_expert_;
  Job job_;
  RingView slots_;
  uint64_t *x_full_, *x_empty_;
  Unit first_;
  int n_units_, n_runs_;
};
#endif

}  // namespace dsr::cuda
