// One token's experts on sm_90: the loop of both kernels, stream_gate_up_sm90.cu and
// stream_down_sm90.cu.
//
// Mapping   a block has units of 16 rows, those of the shared experts first, all through one ring
//           (stream.cuh): a stage is 1 KB of each row, up to eight blocks of 128 bytes of K, and
//           the multiplying warps take turns at pairs of them (one_row.cuh), so that a stage is
//           free again after the time of one pair.
//           Products of a block are kept, in shared memory, and not added up at once: no warp waits
//           for another until the block of threads has done its units, or has no room for more.
//           Scales come to where the products are, beside the ring, long before they are needed.
// Order     that of the kernels for more tokens, whoever multiplied: a chosen expert's blocks in
//           ascending order (stream_units.cuh), a shared one's in eight slices (stream.cuh).
#pragma once

#include "gemm/one_row.cuh"
#include "gemm/stream.cuh"
#include "moe/expert_rows.cuh"

namespace dsr::cuda {

// Of 80 a thread at launch, which leave room for another block on the SM: two blocks of K at a time
// need more. scripts/check_registers.py looks whether the 80 are there.
inline constexpr int kFetchRegisters = 48, kMultiplyRegisters = 96;
static_assert(kFetchWarps * 32 * kFetchRegisters + kConsumers * kMultiplyRegisters ==
              kStreamThreads * 80);

inline constexpr int kMostChosen = 32;  // experts of a token: a fetching warp's lane knows each

// What each of some blocks of threads does, of n in a row: so many, the first ones one more.
struct Shares {
  int each, more;
  static Shares of(int64_t n, int64_t n_blocks) {
    return {narrow(n / n_blocks), narrow(n % n_blocks)};
  }
  __device__ __forceinline__ int first(int block) const { return block * each + min(block, more); }
  __device__ __forceinline__ int n(int block) const { return each + (block < more ? 1 : 0); }
};

// Room for the products of so many blocks of K, once or twice; in both buffers where there are
// more, so that the next ones go to one while the last warps still read the other.
struct KeptPlan {
  int n_blocks, n_buffers;
};
inline constexpr int kKeptBlocks = 128;             // at most, but for a unit of more
inline constexpr int kKeptUnits = kConsumers / 16;  // half a warp adds up each
// Twice 8 rows and their scale.
inline constexpr int kKeptHalf = 9, kKeptFloats = 2 * kKeptHalf;
// The most that any needs; the longest unit has n_unit blocks of K.
inline KeptPlan largest_kept(int n_unit) { return {std::max(kKeptBlocks, n_unit), 2}; }
// For a block of threads with so many units, of so many blocks of K.
inline KeptPlan plan_kept(int64_t n_units, int64_t n_blocks, int n_unit) {
  if (n_units <= kKeptUnits && n_blocks <= kKeptBlocks) return {narrow(n_blocks), 1};
  return largest_kept(n_unit);
}
inline int64_t kept_bytes(const KeptPlan& p) {
  return (int64_t{p.n_buffers} * p.n_blocks * kKeptFloats * 4 + 15) / 16 * 16;
}
__device__ __forceinline__ std::byte* behind_kept(float* kept, const KeptPlan& p) {
  return reinterpret_cast<std::byte*>(kept) +
         (p.n_buffers * p.n_blocks * kKeptFloats * 4 + 15) / 16 * 16;
}

// Between the multiplying warps, which rehearse with the memory of KeptProducts, and the fetching
// ones, which bring the first scales to it.
struct alignas(16) KeptBarriers {
  uint64_t rehearsed, first_scales;
};

#if __CUDA_ARCH__ >= 900

// What the router chose: of lane k of a fetching warp its k-th expert.
__device__ __forceinline__ int chosen_expert(const ExpertsCall& c) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  return lane < c.K ? __ldcg(c.ids + lane) : 0;
}

// A staged row, without the lane's part: addresses in shared memory.
struct StagedRow {
  uint32_t row, units;
};
template <typename W>
__device__ __forceinline__ StagedRow staged_row(const std::byte* rows, int n_rows, int row,
                                                int n_blocks) {
  const int pitch = StagedRows<W>::pitch(n_blocks);
  const uint32_t first = shared_address(rows);
  return {first + row * pitch, first + n_rows * pitch + row * n_blocks * 4};
}
__device__ __forceinline__ uint32_t pinned(uint32_t v) {
  asm volatile("" : "+r"(v));
  return v;
}

// The sum of a row's kept blocks, n of them: in ascending order, or in eight slices.
template <typename W>
__device__ __forceinline__ float sum_of_blocks(const float* at, int row, int n, bool sliced) {
  float sums[kStreamWarps] = {};
#pragma unroll 1
  for (; n > 0; n -= kStreamWarps, at += kStreamWarps * kKeptFloats) {
    float products[kStreamWarps], scales[kStreamWarps];
#pragma unroll
    for (int i = 0; i < kStreamWarps; ++i) {  // all on their way together
      products[i] = i < n ? at[i * kKeptFloats + row] : 0;
      scales[i] = W::kScaled && i < n ? at[i * kKeptFloats + 8] : 1;
    }
#pragma unroll
    for (int i = 0; i < kStreamWarps; ++i) {
      const float in_slice = add_scaled<W>(products[i], scales[i], sums[i]);
      const float in_order = add_scaled<W>(products[i], scales[i], sums[0]);
      if (i < n && sliced) sums[i] = in_slice;
      if (i < n && !sliced) sums[0] = in_order;
    }
  }
  float total = sums[0];
#pragma unroll
  for (int i = 1; i < kStreamWarps; ++i) total = sliced ? total + sums[i] : total;
  return total;
}

__device__ __forceinline__ void init_kept_barriers(KeptBarriers* barriers) {
  if (threadIdx.x != 0) return;
  init_barrier(&barriers->rehearsed, kConsumers);
  init_barrier(&barriers->first_scales, 2 * kFetchWarps * 32);
}

// A job says
//   Unit, first(), next(unit), n_units()
//   unit(i)               the i-th one
//   choose()              finds out what the router chose, if that is not known yet
//   blocks_before(i)      blocks of K of those before it
//   layout(unit)          DenseLayout of its weights
//   n_steps(unit)         of that
//   rows(unit, lane)      RowPair; by whole warps
//   scales(unit, half)    where those of its rows 8 * half and on begin; by whole warps
//   Walk, walk()          what multiplying takes of a unit, and no uniform registers, whose chains
//                         of instructions are slow: x, StagedRow of the token; n_steps; next()
//   is_sliced(unit)       whether its blocks are added up in eight slices
//   finish(unit, row, total, there)  takes a row's sum, by a half of a warp for its 16 rows
template <typename W, typename Job>
class KeptProducts {
 public:
  using Unit = typename Job::Unit;
  __device__ KeptProducts(Job& job, float* memory, const KeptPlan& plan, KeptBarriers* barriers)
      : job_(job), memory_(memory), plan_(plan), barriers_(barriers) {}

  // Where the blocks of units are kept from here on.
  __device__ __forceinline__ float* place() const {
    return memory_ + odd_ * plan_.n_blocks * kKeptFloats;
  }
  // For a unit of so many blocks.
  __device__ __forceinline__ bool has_room(int n_blocks) const {
    return n_units_ < kKeptUnits && n_blocks_ + n_blocks <= plan_.n_blocks;
  }
  __device__ __forceinline__ void add(int n_blocks) {
    ++n_units_;
    n_blocks_ += n_blocks;
  }
  // By the fetching warps: brings the scales of the first units.
  __device__ __forceinline__ void fetch_first_scales() {
    if constexpr (!W::kScaled) return;
    wait_barrier(&barriers_->rehearsed, 0);
    bring_scales(static_cast<int>(threadIdx.x - kConsumers) / 32, kFetchWarps);
    arrive_after_copies(&barriers_->first_scales);
    arrive(&barriers_->first_scales);  // what was stored, not copied
  }
  // By all multiplying warps: those of the units that will be kept next.
  __device__ __forceinline__ void fetch_scales() {
    if constexpr (!W::kScaled) return;
    bring_scales(static_cast<int>(threadIdx.x) / 32, kStreamWarps);
    commit_copies();
  }
  // By all multiplying warps: the sums of what is kept, which they finish. Of units that are not
  // there where this is a rehearsal.
  __device__ __forceinline__ void add_up(bool rehearsal) {
    if constexpr (W::kScaled) {
      if (!rehearsal) wait_barrier(&barriers_->first_scales, 0);
      wait_for_copies<0>();  // of the later ones
    }
    consumers_barrier();
    const int n = rehearsal ? 1 : n_units_;
    const int mine = static_cast<int>(threadIdx.x) / 16, row = static_cast<int>(threadIdx.x) % 16;
    if (mine / 2 * 2 < n) {  // the same for all of a warp
      const int i = first_ + min(mine, n - 1);
      const Unit unit = job_.unit(i);
      const int before = job_.blocks_before(i) - job_.blocks_before(first_);
      const float* at =
          memory_ + (odd_ * plan_.n_blocks + before) * kKeptFloats + row / 8 * kKeptHalf;
      const float total =
          sum_of_blocks<W>(at, row % 8, staged_blocks(job_.n_steps(unit)), job_.is_sliced(unit));
      job_.finish(unit, row, total, mine < n && !rehearsal);
    }
    if (W::kScaled && rehearsal) arrive(&barriers_->rehearsed);
    first_ += n_units_;
    n_units_ = n_blocks_ = 0;
    if (plan_.n_buffers == 2 && !rehearsal) odd_ ^= 1;
  }

 private:
  // A warp of n has every n-th unit, each half of it the scale of eight rows.
  __device__ __forceinline__ void bring_scales(int warp, int n_warps) {
    const int lane = static_cast<int>(threadIdx.x) % 32, before = job_.blocks_before(first_);
    const int end = min(first_ + kKeptUnits, job_.n_units());
#pragma unroll 1
    for (int i = first_ + warp; i < end; i += n_warps) {
      const Unit unit = job_.unit(i);
      const int first = job_.blocks_before(i) - before;
      const int n_blocks = staged_blocks(job_.n_steps(unit));
      if (first + n_blocks > plan_.n_blocks) break;
      const std::byte* const row = job_.scales(unit, lane / 16);
      float* to =
          memory_ + (odd_ * plan_.n_blocks + first) * kKeptFloats + lane / 16 * kKeptHalf + 8;
#pragma unroll 1
      for (int block = lane % 16; block < n_blocks; block += 16)
        bring_scale(job_.layout(unit), row, 2 * block, to + block * kKeptFloats);
    }
  }

  Job& job_;
  float* const memory_;
  const KeptPlan plan_;
  KeptBarriers* const barriers_;
  int first_ = 0;  // of the units that are kept
  int n_units_ = 0, n_blocks_ = 0, odd_ = 0;
};

// The eight warps: all units of the job, two blocks at a time each. What a lane knows is found out
// when this is made: before there is anything to multiply.
template <typename W, typename Job>
class MultiplyOneToken {
 public:
  __device__ MultiplyOneToken(Job& job, const RingView& ring, const KeptProducts<W, Job>& kept)
      : job_(job), ring_(ring), kept_(kept), unit_(job.walk()) {}

  // In a rehearsal only what comes after the products, without results.
  __device__ __forceinline__ void run(bool rehearsal) {
#pragma unroll 1
    for (uint32_t n_units = pinned(rehearsal ? 0 : job_.n_units());; --n_units) {
      const int n_steps = unit_.n_steps, n_blocks = staged_blocks(n_steps);
      if (n_units == 0 || !kept_.has_room(n_blocks)) {
        kept_.add_up(rehearsal);
        if (n_units == 0) return;
        job_.choose();
        kept_.fetch_scales();
        keep_ = pinned(shared_address(kept_.place()) + keeps_);
      }
#pragma unroll 1
      for (int first = 0; first < n_blocks; first += kStreamWarps)
        multiply_stage(first, n_steps, n_blocks);
      kept_.add(n_blocks);
      keep_ += n_blocks * (kKeptFloats * 4);
      unit_.next();
    }
  }

 private:
  // The blocks of K from `first` on, eight at most.
  __device__ __forceinline__ void multiply_stage(int first, int n_steps, int n_blocks) {
    const int n_pairs = (min(n_blocks - first, kStreamWarps) + 1) / 2;
    const int in_stage = 2 * mine_, block = first + in_stage;  // the pair's first one
    const bool is_mine = mine_ < n_pairs, has_second = block + 1 < n_blocks;
    const bool has_block = has_second || (lane_ & 2) == 0;  // block t / 2
    uint4 chunk;
    float x_unit = 1;
    if (is_mine) {
      const int back = has_second ? 0 : (lane_ & 16) * (StagedRows<W>::kBlockBytes / 16);
      chunk = load_shared_16(unit_.x.row + x_at_ + block * StagedRows<W>::kBlockBytes - back);
      if constexpr (W::kScaled)
        x_unit = __uint_as_float(
            load_shared_4(unit_.x.units + (block + (has_block ? lane_ / 2 & 1 : 0)) * 4));
    }
    wait_barrier(&ring_.full[place_.stage], place_.parity);
    if (is_mine) {
      const uint32_t rows = rows_at_ + place_.stage * sizeof(StreamStage) + in_stage * 128;
      constexpr int kHigh = 8 * kRowPitch;
      uint4 low[4], high[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        low[i] = load_shared_16(rows + i * 64);
        high[i] = load_shared_16(rows + kHigh + i * 64);
      }
      float steps[2];
      multiply_steps<W>(low, high, chunk, lane_, steps);
      // What lies behind the row's end in a stage is of another one.
      if (2 * block + (lane_ & 3) >= n_steps) steps[0] = steps[1] = 0;
      const float blocks[2] = {block_of_steps(steps[0]), block_of_steps(steps[1])};
      const float product = (lane_ & 1) == 0 ? blocks[0] : blocks[1];
      if (has_block)
        store_shared_4(keep_ + block * (kKeptFloats * 4), W::kScaled ? product * x_unit : product);
    }
    // Not before the products: what is read of the stage is in registers only where it is used,
    // and the arrival overtakes loads under way.
    __syncwarp();
    arrive(&ring_.empty[place_.stage]);
    place_.advance(ring_.n_stages);
    mine_ = (mine_ - n_pairs) & (kStreamWarps - 1);
  }

  Job& job_;
  const RingView ring_;
  KeptProducts<W, Job> kept_;
  typename Job::Walk unit_;
  RingPlace place_;
  int mine_ = static_cast<int>(threadIdx.x) / 32;  // which pair of the next stage's blocks
  // What a lane reads and keeps, in registers: else every turn would find out again.
  const int lane_ = pinned(threadIdx.x % 32);
  const int g_ = lane_ / 4, t_ = lane_ % 4;
  const uint32_t rows_at_ = pinned(shared_address(ring_.stages) + g_ * kRowPitch + t_ * 16);
  const uint32_t x_at_ = pinned((chunk_of_column<W>(g_) + t_ * W::kXChunks) * 16);
  // Of a pair's results row g + t % 2 * 8 of block t / 2.
  const uint32_t keeps_ = pinned((t_ / 2 * kKeptFloats + t_ % 2 * kKeptHalf + g_) * 4);
  uint32_t keep_ = pinned(shared_address(kept_.place()) + keeps_);
};

#endif

}  // namespace dsr::cuda
