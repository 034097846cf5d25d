// moe_experts and moe_with_shared for one token on sm_90, in one kernel:
//   hidden_k = silu(gate_e x) * (up_e x),  out = sum_k w[k] down_e hidden_k + shared,  e = ids[k]
//
// Mapping   a block per SM, all of them on the GPU at once. First each has its part of the units of
//           gate and up (8 rows of one and the same 8 of the other): of the shared experts, whose
//           weights it fetches before it knows what the router chose, then of the chosen ones. When
//           all blocks have stored their part of hidden it has tiles of 16 rows of out: a unit of
//           the shared experts and one of every chosen one. The fetching warps do not wait there:
//           weights of down are on their way while hidden is still made, the memory never idles.
// Order     a warp has every eighth block of 128 bytes of K, and stores its 16 sums. They are added
//           up when a unit is done: of the chosen experts in the order of stream_units.cuh, of the
//           shared ones in that of stream.cuh, so the bits are those of moe_experts for many tokens
//           and of swiglu and linear. Experts are summed in ascending order, without atomics.
// Memory    the ring (96 KB); before the router has chosen, the shared experts' weights in the L2.
// Needs     gate, up and down of one type; what a block keeps fits beside its ring.
// Traffic   the weights of the chosen experts and of the shared ones, once.
#include <algorithm>

#include "moe/stream_units.cuh"

namespace dsr::cuda {
namespace {

constexpr int kOneStages = 6;
// The stages go round the groups of multiplying warps.
constexpr int kGroups = 2, kGroupWarps = kStreamWarps / kGroups;
static_assert(kOneStages % kGroups == 0, "a group has slots of its own");
using OneRing = Ring<kOneStages>;
constexpr int64_t kSmBytes = 227 * 1024;
// Of sums of gate and up that wait to be added; more only where one unit has more.
constexpr int64_t kKeptBytes = 32 * 1024;
constexpr int kMaxExpertsOfToken = 32;

// Of 128 bytes of a unit's rows: the sums, without their scales, and these.
struct BlockSums {
  float sums[16];
  float scales[2];  // of rows 0..7 and 8..15
  float pad[2];     // keeps the blocks of a unit in different banks
};

// A call, and where things lie in a block's memory, from the end of the ring.
struct OneCall {
  ExpertsCall c;
  uint32_t* grid_barrier;
  int most_kept;  // units of gate and up whose sums are kept at a time
  // Of gate and up; and in the same place of down.
  int up_sums_at;
  int shared_x_at, down_sums_at, totals_at;
};

template <typename W>
int64_t x_bytes(int n_rows, const DenseLayout& l) {
  return StagedRows<W>::bytes(n_rows, l.n_steps);
}
int64_t sums_bytes(const DenseLayout& l) {  // of a unit
  return int64_t{staged_blocks(l.n_steps)} * int64_t{sizeof(BlockSums)};
}
// Fills in where things lie; returns the bytes behind the ring.
template <typename W>
int64_t place_memory(OneCall& o, int most_units) {
  const ExpertsCall& c = o.c;
  o.most_kept = static_cast<int>(
      std::clamp<int64_t>(kKeptBytes / sums_bytes(c.gate_up), 1, std::max(most_units, 1)));
  const int64_t up_x = x_bytes<W>(1, c.gate_up);
  const int64_t up = up_x + o.most_kept * sums_bytes(c.gate_up);
  const bool shared = c.shared.F > 0;
  const int64_t x = x_bytes<W>(c.K, c.down), shared_x = shared ? x_bytes<W>(1, c.shared.down) : 0;
  const int64_t sums = c.K * sums_bytes(c.down) + (shared ? sums_bytes(c.shared.down) : 0);
  const int64_t totals = (c.K + 1) * 16 * 4 + c.K * 4;
  o.up_sums_at = narrow(up_x);
  o.shared_x_at = narrow(x);
  o.down_sums_at = narrow(x + shared_x);
  o.totals_at = narrow(x + shared_x + sums);
  return std::max(up, x + shared_x + sums + totals);
}

#if __CUDA_ARCH__ >= 900
// The units of a block, in the order in which they are fetched and multiplied.
class OneJob {
 public:
  struct Unit {
    int at;   // which
    int k;    // of a chosen expert, or -1: the shared ones
    int row;  // its first; of gate and of up
  };
  __device__ OneJob(const ExpertsCall& c, const int* experts)
      : c_(c), experts_(experts), first_k_(c.shared.F > 0 ? -1 : 0) {
    const int64_t n = (c.shared.F + 7) / 8, b = blockIdx.x;
    const auto first = static_cast<int>(b * n / gridDim.x);
    n_shared_ = static_cast<int>((b + 1) * n / gridDim.x) - first;
    first_shared_ = first * 8;
    // The blocks with more shared units are not those with more of the chosen experts.
    const int per_expert = (c.F + 7) / 8;
    const int64_t n_chosen = int64_t{c.K} * per_expert, r = gridDim.x - 1 - b;
    const auto first_chosen = static_cast<int>(r * n_chosen / gridDim.x);
    n_up_ = n_shared_ + static_cast<int>((r + 1) * n_chosen / gridDim.x) - first_chosen;
    chosen_ = {n_shared_, first_chosen / per_expert, first_chosen % per_expert * 8};
    const int64_t tiles = (c.D + 15) / 16;
    first_tile_ = static_cast<int>(b * tiles / gridDim.x);
    n_tiles_ = static_cast<int>((b + 1) * tiles / gridDim.x) - first_tile_;
  }
  __device__ __forceinline__ int n_shared() const { return n_shared_; }
  __device__ __forceinline__ int n_up() const { return n_up_; }  // with the shared
  __device__ __forceinline__ int n_tiles() const { return n_tiles_; }
  __device__ __forceinline__ int per_tile() const { return c_.K - first_k_; }
  __device__ __forceinline__ int n_units() const { return n_up_ + n_tiles_ * per_tile(); }

  __device__ __forceinline__ Unit first() const {
    return n_shared_ > 0 ? Unit{0, -1, first_shared_} : first_chosen();
  }
  __device__ __forceinline__ Unit first_chosen() const {
    return n_up_ > n_shared_ ? chosen_ : first_down();
  }
  __device__ __forceinline__ Unit first_down() const { return {n_up_, first_k_, first_tile_ * 16}; }
  __device__ __forceinline__ void next(Unit& unit) const {
    if (++unit.at > n_up_) {
      if (++unit.k == c_.K) unit = {unit.at, first_k_, unit.row + 16};
    } else if (unit.at == n_up_) {
      unit = first_down();
    } else if (unit.at == n_shared_) {
      unit = chosen_;
    } else {
      unit.row += 8;
      if (unit.k >= 0 && unit.row >= c_.F) unit = {unit.at, unit.k + 1, 0};
    }
  }
  __device__ __forceinline__ const DenseLayout& layout(const Unit& unit) const {
    return unit.at < n_up_ ? c_.gate_up : unit.k < 0 ? c_.shared.down : c_.down;
  }
  // Row `item` of the unit's 16 at its first byte; or the scales of its half.
  __device__ __forceinline__ const std::byte* row(const Unit& unit, int item, bool scales) const {
    const bool up = unit.at < n_up_, high = item >= 8;
    const SharedExperts& s = c_.shared;
    const ExpertWeights& w = c_.weights;
    DenseSegment from;
    if (unit.k < 0)
      from = !up ? s.down_rows : high ? s.up : s.gate;
    else
      from = segment_of(!up ? w.down : high ? w.up : w.gate, experts_[unit.k]);
    const DenseLayout& l = layout(unit);
    const int first = up || !high ? unit.row : unit.row + 8;
    const int last = (!up ? c_.D : unit.k < 0 ? s.F : c_.F) - 1;
    return scales ? from.scales + (min(first, last) >> l.block_rows_shift) * l.scale_row_bytes
                  : from.data + min(first + item % 8, last) * l.row_bytes;
  }
  // Calls a unit into the L2; by the lanes that fetch a row.
  __device__ __forceinline__ void call(const Unit& unit) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (lane >= kFetchRows) return;
    const int item = static_cast<int>(threadIdx.x - kConsumers) / 32 * kFetchRows + lane;
    prefetch_bulk(row(unit, item, false), static_cast<uint32_t>(layout(unit).n_steps * 64));
  }
  // Where row `row` of the at-th unit, of gate and up, belongs in hidden; null past its end.
  __device__ __forceinline__ bf16* hidden(int at, int row) const {
    if (at < n_shared_) {
      row += first_shared_ + at * 8;
      return row < c_.shared.F ? c_.shared.hidden + row : nullptr;
    }
    const int per_expert = (c_.F + 7) / 8,
              i = chosen_.k * per_expert + chosen_.row / 8 + at - n_shared_;
    const int k = i / per_expert;
    row += (i - k * per_expert) * 8;
    return row < c_.F ? c_.hidden + int64_t{k} * c_.F + row : nullptr;
  }
  __device__ __forceinline__ int first_row() const { return first_tile_ * 16; }

 private:
  const ExpertsCall& c_;
  const int* const experts_;  // [K], in shared memory
  const int first_k_;
  int n_shared_, n_up_, first_shared_, first_tile_, n_tiles_;
  Unit chosen_;
};

// The sum of a unit's row. In ascending order of its blocks of K, as multiply_unit() adds them.
__device__ __forceinline__ float ascending_total(const BlockSums* of, int n_blocks, int row) {
  float sum = 0;
#pragma unroll 4
  for (int b = 0; b < n_blocks; ++b) sum = fmaf(of[b].sums[row], of[b].scales[row / 8], sum);
  return sum;
}
// As stream.cuh does: eight slices, added from left to right.
__device__ __forceinline__ float sliced_total(const BlockSums* of, int n_blocks, int row) {
  float slices[kStreamWarps] = {};
#pragma unroll 1
  for (int first = 0; first < n_blocks; first += kStreamWarps) {
#pragma unroll
    for (int w = 0; w < kStreamWarps; ++w) {
      if (first + w >= n_blocks) break;
      const BlockSums& b = of[first + w];
      slices[w] = fmaf(b.sums[row], b.scales[row / 8], slices[w]);
    }
  }
  float sum = slices[0];
#pragma unroll
  for (int w = 1; w < kStreamWarps; ++w) sum += slices[w];
  return sum;
}

// The multiplying warps. All of them go through every unit.
template <typename W>
class OneConsumer {
 public:
  __device__ OneConsumer(const OneCall& o, const OneJob& job, const RingView& ring,
                         std::byte* memory)
      : o_(o), job_(job), ring_(ring), memory_(memory) {}

  // In rounds, each of units whose sums are kept until all of them are done: the units of gate and
  // up, as many at a time as there is room, then tile after tile of down. Code is in no cache when
  // a kernel's turn in a step comes: round -1 goes through it with no data, before the wait.
  __device__ __forceinline__ void run() {
    const ExpertsCall& c = o_.c;
    const int n_up_rounds = (job_.n_up() + o_.most_kept - 1) / o_.most_kept;
    const int n_rounds = n_up_rounds + max(job_.n_tiles(), 1);
    const int up_blocks = staged_blocks(c.gate_up.n_steps);
    const int down_blocks = staged_blocks(c.down.n_steps);
    const bool has_shared = c.shared.F > 0;
    const int shared_blocks = has_shared ? staged_blocks(c.shared.down.n_steps) : 0;
    auto* totals = reinterpret_cast<float*>(memory_ + o_.totals_at);  // [K + 1, 16]
    float* weights = totals + (c.K + 1) * 16;                         // [K]
    int first = 0;                                                    // unit of the round
#pragma unroll 1
    for (int round = -1; round < n_rounds; ++round) {
      const bool real = round >= 0, down = round >= n_up_rounds;
      if (round == 0) wait_for_previous_kernel();
      if (round == n_up_rounds) {
        consumers_barrier();
        if (threadIdx.x == 0) meet_grid(o_.grid_barrier);
        consumers_barrier();
      }
      if (round <= 0 || round == n_up_rounds) {
        Rows rows = {}, more = {};
        if (down) {
          rows = {.from = reinterpret_cast<const std::byte*>(c.hidden),
                  .to = memory_,
                  .n_rows = c.K,
                  .n_steps = c.down.n_steps};
          more = {.from = reinterpret_cast<const std::byte*>(c.shared.hidden),
                  .to = memory_ + o_.shared_x_at,
                  .n_rows = has_shared ? 1 : 0,
                  .n_steps = c.shared.down.n_steps};
          const auto k = static_cast<int>(threadIdx.x);
          if (k < c.K) weights[k] = __ldcg(c.chosen + k);
        } else if (real) {
          rows = {.from = c.x, .to = memory_, .n_rows = 1, .n_steps = c.gate_up.n_steps};
        }
        stage(rows, more);
        consumers_barrier();
      }
      const int n = !real                ? 0
                    : !down              ? min(o_.most_kept, job_.n_up() - first)
                    : job_.n_tiles() > 0 ? job_.per_tile()
                                         : 0;
      auto* sums = reinterpret_cast<BlockSums*>(memory_ + (down ? o_.down_sums_at : o_.up_sums_at));
      // Down: the shared experts' unit comes first.
      const int first_blocks = down && has_shared ? shared_blocks : down ? down_blocks : up_blocks;
      const int blocks = down ? down_blocks : up_blocks;
      BlockSums* to = sums;
#pragma unroll 1
      for (int i = 0; i < n; ++i) {
        const bool is_shared = down && has_shared && i == 0;
        const int k = down ? i - (has_shared ? 1 : 0) : 0;
        const TileX<W> x = TileX<W>::of(
            is_shared ? memory_ + o_.shared_x_at : memory_, is_shared || !down ? 1 : c.K,
            is_shared ? shared_blocks : blocks, [&](int) { return is_shared ? 0 : k; });
        multiply(!down ? c.gate_up : is_shared ? c.shared.down : c.down, x.x, x.units[0], to);
        to += i == 0 ? first_blocks : blocks;
      }
      consumers_barrier();
#pragma unroll 1
      for (int i = static_cast<int>(threadIdx.x); i < (real ? n * 16 : kConsumers);
           i += kConsumers) {
        const int u = i / 16, row = i % 16;
        const bool is_shared = down ? has_shared && u == 0 : first + u < job_.n_shared();
        const BlockSums* of = u == 0 || !real ? sums : sums + first_blocks + (u - 1) * blocks;
        float total = 0;
        if (is_shared || !real)
          total = sliced_total(of, real ? u == 0 ? first_blocks : blocks : 1, row);
        if (!is_shared) total = ascending_total(of, real ? blocks : 1, row);
        if (!down) {
          const unsigned lanes = 0xffffu << (threadIdx.x % 32 / 16 * 16);
          const float up = __shfl_down_sync(lanes, total, 8, 16);
          const float product = silu(total) * up;
          bf16* at = real && row < 8 ? job_.hidden(first + u, row) : nullptr;
          if (at != nullptr) *at = from_float<bf16>(product);
        } else {
          totals[i] = total;
        }
      }
      consumers_barrier();
      first += n;
      if (real && !down) continue;
      const auto i = static_cast<int>(threadIdx.x);
      if (i < 16) {
        float sum = 0;
        const float* of = totals + (has_shared ? 16 : 0) + i;
        for (int k = 0; k < c.K; ++k) sum = fmaf(weights[k], of[k * 16], sum);
        // What linear() would have stored of the shared experts.
        if (has_shared) sum += to_float(from_float<bf16>(totals[i]));
        const int row = job_.first_row() + (round - n_up_rounds) * 16 + i;
        if (n > 0 && row < c.D) store_result(c, 0, row, sum);
      }
      consumers_barrier();
    }
  }

 private:
  __device__ static int warp() { return static_cast<int>(threadIdx.x) / 32; }

  // The next unit of the ring, this warp's blocks of it.
  __device__ __forceinline__ void multiply(const DenseLayout& l, const uint4* x, const float* units,
                                           BlockSums* sums) {
    const int lane = static_cast<int>(threadIdx.x) % 32, n_stages = stages_per_unit(l);
    const int group = warp() / kGroupWarps, first = warp() % kGroupWarps;
    const bool ue8m0 = l.ue8m0;
    const int n_steps = l.n_steps;
    int s = (group - n_stages_) & (kGroups - 1);
    n_stages_ += n_stages;
#pragma unroll 1
    for (; s < n_stages; s += kGroups) {
      const StreamStage& stage = ring_.stages[slot_];
      wait_barrier(&ring_.full[slot_], parity_);
      const std::byte* const rows = &stage.rows[0][0] + lane / 4 * kRowPitch + lane % 4 * 16;
#pragma unroll
      for (int b = first; b < first + kStreamWarps; b += kGroupWarps) {
        const int block = s * kStreamWarps + b, step = 2 * block;
        if (step >= n_steps) break;
        const bool whole = step + 1 < n_steps;
        const auto* at = reinterpret_cast<const uint4*>(rows + b * 128);
        constexpr int kHigh = 8 * kRowPitch / 16;
        const uint4 zero = make_uint4(0, 0, 0, 0);
        const uint4 low[2] = {at[0], whole ? at[4] : zero};
        const uint4 high[2] = {at[kHigh], whole ? at[kHigh + 4] : zero};
        BlockX<W> x_tile;
        TileX<W>{x, {units, units}}.take(block, x_tile);
        BlockWeights<W> weights;
        expand_block<W>(low, high, weights);
        float product[4];
        multiply_block(weights, x_tile, product);
        BlockSums& to = sums[block];
        if (lane % 4 == 0) {
          to.sums[lane / 4] = product[0];
          to.sums[lane / 4 + 8] = product[2];
        }
        if (lane < 2) {
          const uint32_t word = stage.scales[lane][b];
          to.scales[lane] =
              !W::kScaled ? 1
              : ue8m0     ? to_float(e8m0{static_cast<uint8_t>(word >> stage.shifts[lane][b])})
                          : __uint_as_float(word);
        }
      }
      __syncwarp();  // all lanes have read the stage
      arrive(&ring_.empty[slot_]);
      slot_ += kGroups;
      if (slot_ >= kOneStages) {
        slot_ -= kOneStages;
        parity_ ^= 1;
      }
    }
  }
  // Rows of activations of one width, one behind the other, on their way to operands.
  struct Rows {
    const std::byte* from;
    std::byte* to;
    int n_rows, n_steps;
  };
  // A chunk of 16 bytes of them.
  struct Chunk {
    const std::byte* from;
    std::byte* to;
    float* unit;
    bool there;
  };
  __device__ __forceinline__ static Chunk chunk_of(const Rows& r, int i) {
    constexpr int kChunks = StagedRows<W>::kChunks;
    const int n_blocks = staged_blocks(r.n_steps), n_there = r.n_steps * W::kStepColumns / 8;
    const int block = i / kChunks;
    // As quotients of floats: both are small.
    const int row =
        __float2int_rz(__fdividef(static_cast<float>(block) + 0.5f, static_cast<float>(n_blocks)));
    const int chunk = i - row * n_blocks * kChunks;
    return {r.from + (row * n_there + chunk) * 16,
            r.to + row * StagedRows<W>::pitch(n_blocks) + chunk * 16,
            StagedRows<W>::units(r.to, r.n_rows, n_blocks) + block, chunk < n_there};
  }
  // Both, by all multiplying warps.
  __device__ __forceinline__ void stage(const Rows& rows, const Rows& more) {
    constexpr int kAtOnce = 3, kChunks = StagedRows<W>::kChunks;
    const int n_first = rows.n_rows * staged_blocks(rows.n_steps) * kChunks;
    const int n = n_first + more.n_rows * staged_blocks(more.n_steps) * kChunks;
    int first = 0;
#pragma unroll 1
    do {  // once also where there is nothing
      uint4 v[kAtOnce];
      Chunk chunk[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int i = first + k * kConsumers + static_cast<int>(threadIdx.x);
        const bool second = i >= n_first;  // the same for the lanes of a block
        chunk[k] = chunk_of(second ? more : rows, second ? i - n_first : i);
        v[k] = make_uint4(0, 0, 0, 0);
        if (i < n && chunk[k].there) v[k] = *reinterpret_cast<const uint4*>(chunk[k].from);
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int i = first + k * kConsumers + static_cast<int>(threadIdx.x);
        uint4 out = v[k];
        if constexpr (W::kScaled) {
          uint32_t largest = 0;
#pragma unroll
          for (int j = 0; j < 4; ++j) largest = HalfUnit::larger(largest, word_of(out, j));
          const HalfUnit unit = HalfUnit::of<kChunks>(largest);
          out = make_uint4(unit.quotients(out.x), unit.quotients(out.y), unit.quotients(out.z),
                           unit.quotients(out.w));
          if (i < n && i % kChunks == 0) *chunk[k].unit = unit.value();
        }
        if (i < n) *reinterpret_cast<uint4*>(chunk[k].to) = out;
      }
      first += kAtOnce * kConsumers;
    } while (first < n);
  }

  const OneCall& o_;
  const OneJob& job_;
  const RingView ring_;
  std::byte* const memory_;
  int slot_ = warp() / kGroupWarps, n_stages_ = 0;
  uint32_t parity_ = 0;
};

// A fetching warp: lanes 0..3 fetch a row each, lanes 4..7 a scale of low or high.
template <typename W>
class OneProducer {
 public:
  __device__ OneProducer(const OneCall& o, const OneJob& job, const RingView& ring)
      : o_(o), job_(job), ring_(ring), unit_(job.first()) {}

  __device__ __forceinline__ void fetch_all(int* experts) {
    const ExpertsCall& c = o_.c;
#pragma unroll 1
    for (int pass = 0; pass < 2; ++pass) {
      run(pass == 0 ? job_.n_shared() : job_.n_units(), pass == 0 ? kOneStages : 1 << 30);
      if (pass == 1) break;
      // The rest of the shared experts' weights.
      const int in_ring = min(kOneStages / stages_per_unit(c.gate_up), job_.n_shared());
      const int n_down = c.shared.F > 0 ? job_.n_tiles() : 0;
      OneJob::Unit unit = job_.first();
      unit.row += in_ring * 8;
#pragma unroll 1
      for (int i = in_ring; i < job_.n_shared() + n_down; ++i) {
        if (i == job_.n_shared()) unit = job_.first_down();
        job_.call(unit);
        unit.row += i < job_.n_shared() ? 8 : 16;
      }
      wait_for_previous_kernel();
      const int i = static_cast<int>(threadIdx.x) - kConsumers;
      if (i < c.K) experts[i] = __ldcg(c.ids + i);
      wait_for_threads<2, kFetchWarps * 32>();
    }
  }

 private:
  __device__ __forceinline__ void run(int n_units, int n_stages) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int item = static_cast<int>(threadIdx.x - kConsumers) / 32 * kFetchRows + lane % 4;
#pragma unroll 1
    for (; unit_.at < n_units && n_stages > 0; --n_stages) {
      const DenseLayout& l = job_.layout(unit_);
      const int n_bytes = l.n_steps * 64;
      if (at_ == 0) from_ = job_.row(unit_, item, lane >= kFetchRows);
      StreamStage& stage = ring_.stages[stage_];
      uint64_t* full = &ring_.full[stage_];
      wait_barrier(&ring_.empty[stage_], parity_ ^ 1);
      const int bytes = min(kStageBytes, n_bytes - at_);
      if (lane == 0) arrive_expecting(full, static_cast<uint32_t>(kFetchRows * bytes));
      __syncwarp();
      if (lane < kFetchRows)
        copy_bulk(stage.rows[item], from_ + at_, static_cast<uint32_t>(bytes), full);
      else if (W::kScaled && lane < 2 * kFetchRows)
        fetch_stage_scale(l, from_, at_, item, stage, full);
      if (++stage_ == kOneStages) {
        stage_ = 0;
        parity_ ^= 1;
      }
      at_ += kStageBytes;
      if (at_ >= n_bytes) {
        at_ = 0;
        job_.next(unit_);
      }
    }
  }

  const OneCall& o_;
  const OneJob& job_;
  const RingView ring_;
  OneJob::Unit unit_;
  const std::byte* from_ = nullptr;
  int at_ = 0, stage_ = 0;
  uint32_t parity_ = 0;
};
#endif

template <typename W>
__global__ __launch_bounds__(kStreamThreads,
                             2) void experts_kernel(const __grid_constant__ OneCall o) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 shared[];
  __shared__ int experts[kMaxExpertsOfToken];
  auto* const ring_memory = reinterpret_cast<OneRing*>(shared);
  const RingView ring = ring_memory->view();
  if (threadIdx.x == 0) {
    init_ring(ring, kGroupWarps * 32, W::kScaled, o.c.gate_up.ue8m0);
    publish_barriers();
  }
  __syncthreads();
  const OneJob job(o.c, experts);
  if (threadIdx.x >= kConsumers) {
    OneProducer<W> producer(o, job, ring);
    return producer.fetch_all(experts);
  }
  OneConsumer<W>(o, job, ring, reinterpret_cast<std::byte*>(ring_memory + 1)).run();
#endif
}

int64_t blocks_of(Exec& exec, const ExpertsCall& c) {
  const int64_t n_up = int64_t{c.K} * ((c.F + 7) / 8) + (c.shared.F + 7) / 8;
  return std::min<int64_t>(std::max<int64_t>(n_up, (c.D + 15) / 16), exec.cuda().n_sms());
}
int most_units_of(const ExpertsCall& c, int64_t blocks) {
  const auto most = [&](int64_t n) { return (n + blocks - 1) / blocks; };
  return narrow(most(int64_t{c.K} * ((c.F + 7) / 8)) + most((c.shared.F + 7) / 8));
}

template <typename W>
void run(Exec& exec, const ExpertsCall& c) {
  const int64_t blocks = blocks_of(exec, c);
  OneCall o = {};
  o.c = c;
  o.grid_barrier = exec.cuda().grid_barrier();
  const int64_t bytes = int64_t{sizeof(OneRing)} + place_memory<W>(o, most_units_of(c, blocks));
  launch(exec, "moe_experts",
         {.grid = dim3(static_cast<unsigned>(blocks)),
          .threads = kStreamThreads,
          .shared_bytes = std::max(bytes, kAloneBytes)},
         experts_kernel<W>, o);
}

template <typename W>
bool fits(const ExpertsCall& c) {
  OneCall o = {};
  o.c = c;
  return int64_t{sizeof(OneRing)} + place_memory<W>(o, 1 << 20) <= kSmBytes - 256;
}

}  // namespace

bool stream_takes_one(const ExpertsCall& c) {
  return c.gate_up.fp8 == c.down.fp8 && c.gate_up.ue8m0 == c.down.ue8m0 &&
         c.K <= kMaxExpertsOfToken && (c.down.fp8 ? fits<Fp8Weight>(c) : fits<Bf16Weight>(c));
}

void stream_one(Exec& exec, const ExpertsCall& c) {
  c.down.fp8 ? run<Fp8Weight>(exec, c) : run<Bf16Weight>(exec, c);
}

}  // namespace dsr::cuda
