// moe_experts for 2 to 64 tokens on sm_90, in three kernels:
//   hidden[p] = silu(gate_e x[t]) * (up_e x[t])   for every pair p = (t, k), e = ids[t, k]
//   products[p] = down_e hidden[p]
//   out[t] = sum_k w[t, k] products[t, k] (+ addend[t])
//
// Mapping   the first two are the loop of stream_units.cuh: one block per SM has its part of the
//           units of all wanted experts, expert after expert: 8 rows of gate with the same 8 of up,
//           or 16 of down. An expert with more tokens than fit into one tile or two is there
//           several times. The third has a thread per element.
// Traffic   the weights of every wanted expert, once per 8 tokens, in calls of 9 and more once per
//           16 where these fit beside all slots (V2-Lite; V3's gate and up do not); an expert's
//           activations once per block that has units of it; products twice.
#include <algorithm>

#include "gemm/linear_kernels.h"
#include "moe/stream_units.cuh"

namespace dsr::cuda {
namespace {

// Of a block's shared memory: the slots, staged activations of one or two experts, lists, barriers.
struct ManyMemory {
  int n_slots, n_buffers;
  int64_t x_bytes, lists_bytes;

  __host__ __device__ int64_t x_at() const { return n_slots * int64_t{sizeof(StreamStage)}; }
  __host__ __device__ int64_t lists_at() const { return x_at() + n_buffers * x_bytes; }
  __host__ __device__ int64_t barriers_at() const { return lists_at() + lists_bytes; }
  int64_t bytes() const { return barriers_at() + (2 * n_slots + 2 * n_buffers) * 8; }
};
constexpr int kMostSlots = kStreamWarps, kLeastSlots = 4;
constexpr int64_t kSmBytes = 227 * 1024;

// Nothing fits where n_slots is less than kLeastSlots.
template <typename W, int kTiles>
ManyMemory memory_of(const ExpertsCall& c, const DenseLayout& l) {
  ManyMemory m = {.n_slots = 0,
                  .n_buffers = 2,
                  .x_bytes = StagedRows<W>::bytes(8 * kTiles, l.n_steps),
                  .lists_bytes = (stream_lists_bytes<8 * kTiles>(c) + 15) / 16 * 16};
  const auto slots = [&] {
    const int64_t left = kSmBytes - m.n_buffers * (m.x_bytes + 16) - m.lists_bytes;
    return std::min<int64_t>(left / (int64_t{sizeof(StreamStage)} + 16), kMostSlots);
  };
  if (slots() < kMostSlots) m.n_buffers = 1;
  m.n_slots = static_cast<int>(std::max<int64_t>(slots(), 0));
  return m;
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
template <typename W, int kTiles, typename Job>
class ManyBlock {
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
      init_ring(slots_, 32, W::kScaled, l.ue8m0);
      for (int i = 0; i < m_.n_buffers; ++i) {
        init_barrier(&x_full_[i], kFetchWarps * 32);
        init_barrier(&x_empty_[i], kConsumers);
      }
      publish_barriers();
    }
    __syncthreads();
  }
  // The fetching warps. Calls before_activations() when they may fetch nothing more but these.
  template <typename BeforeActivations>
  __device__ __forceinline__ void fetch(const BeforeActivations& before_activations) {
    job_.lists = make_lists_for_consumers<8 * kTiles>(c_, memory_ + m_.lists_at());
    find_units();
    SlotProducer<W, Job> producer(job_, slots_, 0);
    Unit unit = first_;
    int run = -1;  // whose activations are there
    for (int i = 0; i < n_units_;) {
      const int n = group(i, unit);
      const Unit next = after(unit, n);
      const int last_run = after(unit, n - 1).active - first_.active;
      producer.fetch(unit, n, [&] {
        if (run < 0) before_activations();
        for (; run < last_run; ++run) stage(run + 1);
      });
      unit = next;
      i += n;
    }
  }
  // All others.
  __device__ __forceinline__ void multiply() {
    job_.lists = lists_of_producers<8 * kTiles>(c_, memory_ + m_.lists_at());
    find_units();
    const DenseLayout& l = job_.layout(first_);
    const int warp = static_cast<int>(threadIdx.x) / 32, t = static_cast<int>(threadIdx.x) % 4;
    if (warp >= slots_.n_stages) return go_to_run(-1, n_runs_ - 1);
    MySlot slot(slots_, warp, 0, 32);
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
          find_x(run, x);
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
    const int64_t n = int64_t{job_.lists.n_active} * per_expert_, b = blockIdx.x;
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
    const int n = m_.n_buffers * per_expert_ - unit.row / Job::kUnitRows;
    return min(min(slots_.n_stages, n_units_ - i), n);
  }
  __device__ __forceinline__ std::byte* buffer(int run) const {
    return memory_ + m_.x_at() + run % m_.n_buffers * m_.x_bytes;
  }
  // Parity of the phase in which a run's activations come.
  __device__ __forceinline__ uint32_t parity(int run) const { return run / m_.n_buffers & 1; }

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
    wait_barrier(&x_empty_[run % m_.n_buffers], parity(run) ^ 1);
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
    while (run < to) {
      if (run >= 0) arrive(&x_empty_[run % m_.n_buffers]);
      ++run;
      wait_barrier(&x_full_[run % m_.n_buffers], parity(run));
    }
  }
  __device__ __forceinline__ void find_x(int run, StagedTile<W> (&x)[kTiles]) const {
    const int n_blocks = staged_blocks(job_.layout(first_).n_steps);
#pragma unroll
    for (int j = 0; j < kTiles; ++j)
      x[j] = StagedTile<W>::of(buffer(run), 8 * kTiles, n_blocks, [&](int i) { return j * 8 + i; });
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

template <typename W, int kTiles, bool kDown>
__global__ __launch_bounds__(kStreamThreads,
                             1) void units_kernel(const __grid_constant__ ExpertsCall c,
                                                  const __grid_constant__ ManyMemory m) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 shared[];
  using Job = std::conditional_t<kDown, DownMany, GateUpMany>;
  ManyBlock<W, kTiles, Job> block(c, m, reinterpret_cast<std::byte*>(shared));
  block.init(kDown ? c.down : c.gate_up);
  // What the router chose is older than the first kernel, which starts the second one.
  if constexpr (!kDown) wait_then_start_next_kernel();
  if (threadIdx.x < kConsumers)
    block.multiply();
  else
    block.fetch([] {
      if constexpr (kDown) wait_for_previous_kernel();
    });
#endif
}

// A thread per element of out.
__global__ __launch_bounds__(256) void combine_kernel(const __grid_constant__ ExpertsCall c) {
  const int column = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const auto token = static_cast<int64_t>(blockIdx.y);
  wait_for_previous_kernel();
  if (column >= c.D) return;
  const float* products = c.products + token * c.K * c.D + column;
  const float* weights = c.chosen + token * c.chosen_stride;
  float sum = 0;
  for (int first = 0; first < c.K; first += 8) {  // eight under way together
    float product[8], weight[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int k = min(first + i, c.K - 1);
      product[i] = products[int64_t{k} * c.D];
      weight[i] = weights[k];
    }
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (first + i < c.K) sum = fmaf(weight[i], product[i], sum);
  }
  store_result(c, token, column, sum);
}

template <typename W, int kTiles, bool kDown>
void run_units(Exec& exec, const ExpertsCall& c) {
  const ManyMemory m = memory_of<W, kTiles>(c, kDown ? c.down : c.gate_up);
  const int64_t per_expert = kDown ? (c.D + 15) / 16 : (c.F + 7) / 8;
  const int64_t most = std::min<int64_t>(c.E, int64_t{c.T} * c.K) * per_expert;
  launch(exec, "moe_experts",
         {.grid = dim3(static_cast<unsigned>(std::min<int64_t>(most, exec.cuda().n_sms()))),
          .threads = kStreamThreads,
          .shared_bytes = m.bytes()},
         units_kernel<W, kTiles, kDown>, c, m);
}

template <typename W, bool kDown>
void run_for_tokens(Exec& exec, const ExpertsCall& c) {
  const ManyMemory two = memory_of<W, 2>(c, kDown ? c.down : c.gate_up);
  if (c.T > 8 && two.n_slots >= kMostSlots)
    run_units<W, 2, kDown>(exec, c);
  else
    run_units<W, 1, kDown>(exec, c);
}
template <bool kDown>
void run_for_type(Exec& exec, const ExpertsCall& c) {
  if ((kDown ? c.down : c.gate_up).fp8)
    run_for_tokens<Fp8Weight, kDown>(exec, c);
  else
    run_for_tokens<Bf16Weight, kDown>(exec, c);
}

// Of a block of stream_down: D up to 512 times the SMs.
constexpr int kMostTiles = 32;

// Whether the kernels for one token and for many have the memory.
template <typename W>
bool gate_up_fits(const ExpertsCall& c) {
  return memory_of<W, 1>(c, c.gate_up).n_slots >= kLeastSlots &&
         one_token_gate_up_bytes<W>(c) <= kHalfSmBytes;
}
template <typename W>
bool down_fits(const ExpertsCall& c) {
  return memory_of<W, 1>(c, c.down).n_slots >= kLeastSlots &&
         one_token_down_bytes<W>(c, kMostTiles) <= kSmBytes;
}

}  // namespace

bool stream_takes(ExpertsCall c) {
  c.T = kMaxDecodeTokens;  // the answer is the same for any number of tokens
  return (c.gate_up.fp8 ? gate_up_fits<Fp8Weight>(c) : gate_up_fits<Bf16Weight>(c)) &&
         (c.down.fp8 ? down_fits<Fp8Weight>(c) : down_fits<Bf16Weight>(c));
}

void stream_many(Exec& exec, const ExpertsCall& c) {
  run_for_type<false>(exec, c);
  run_for_type<true>(exec, c);
  const dim3 grid(static_cast<unsigned>((c.D + 255) / 256), static_cast<unsigned>(c.T));
  launch(exec, "moe_experts", {.grid = grid, .threads = 256}, combine_kernel, c);
}

}  // namespace dsr::cuda
