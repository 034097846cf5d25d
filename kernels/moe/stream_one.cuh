// One token's experts on sm_90: the loop of both kernels, stream_gate_up_sm90.cu and
// stream_down_sm90.cu.
//
// Mapping   a block has units of 16 rows, those of the shared experts first, all through one ring
//           (stream.cuh): a stage is 1 KB of each row, up to eight blocks of 128 bytes of K, and
//           the multiplying warps take turns at pairs of them (one_row.cuh), so that a stage is
//           free again after the time of one pair.
//           Products of a block are kept, in shared memory, and not added up at once: no warp waits
//           for another until the block of threads has done its units, or has no room for more.
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

// A job says
//   Unit, first(), next(unit), n_units()
//   unit(i)               the i-th one
//   blocks_before(i)      blocks of K of those before it
//   layout(unit)          DenseLayout of its weights
//   n_steps(unit)         of that
//   ue8m0()               of all units' scales
//   rows(unit, lane)      RowPair
//   x(unit, n_blocks)     StagedRow of the token
//   is_sliced(unit)       whether its blocks are added up in eight slices
//   finish(unit, row, total, there)  takes a row's sum, by a half of a warp for its 16 rows
template <typename W, typename Job>
class KeptProducts {
 public:
  using Unit = typename Job::Unit;
  __device__ KeptProducts(Job& job, float* memory, const KeptPlan& plan)
      : job_(job), memory_(memory), plan_(plan) {}

  // Where the next unit's blocks are kept.
  __device__ __forceinline__ float* place() const {
    return memory_ + (odd_ * plan_.n_blocks + n_blocks_) * kKeptFloats;
  }
  // For a unit of so many blocks.
  __device__ __forceinline__ bool has_room(int n_blocks) const {
    return n_units_ < kKeptUnits && n_blocks_ + n_blocks <= plan_.n_blocks;
  }
  __device__ __forceinline__ void add(int n_blocks) {
    ++n_units_;
    n_blocks_ += n_blocks;
  }
  // By all multiplying warps: the sums of what is kept, which they finish. Of units that are not
  // there where this is a rehearsal.
  __device__ __forceinline__ void add_up(bool rehearsal) {
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
    first_ += n_units_;
    n_units_ = n_blocks_ = 0;
    if (plan_.n_buffers == 2) odd_ ^= 1;
  }

 private:
  Job& job_;
  float* const memory_;
  const KeptPlan plan_;
  int first_ = 0;  // of the units that are kept
  int n_units_ = 0, n_blocks_ = 0, odd_ = 0;
};

// The eight warps: all units of the job, two blocks at a time each. In a rehearsal only what comes
// after them, without results.
template <typename W, typename Job>
__device__ __forceinline__ void multiply_one_token(Job& job, const RingView& ring, float* memory,
                                                   const KeptPlan& plan, bool rehearsal) {
  // What a lane reads and keeps, in registers: else every turn would find out again.
  const uint32_t lane = pinned(threadIdx.x % 32), g = lane / 4, t = lane % 4;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const uint32_t stages = shared_address(ring.stages);
  const uint32_t rows_at = pinned(stages + g * kRowPitch + t * 16);
  const uint32_t scales_at =
      pinned(stages + offsetof(StreamStage, scales) + (t % 2 * kStreamWarps + t / 2) * 4);
  const uint32_t x_at = pinned((chunk_of_column<W>(g) + t * W::kXChunks) * 16);
  // Of a pair's results row g + t % 2 * 8 of block t / 2; the first quad their scales as well.
  const uint32_t keeps = pinned((t / 2 * kKeptFloats + t % 2 * kKeptHalf + g) * 4);
  KeptProducts<W, Job> kept(job, memory, plan);
  typename Job::Unit unit = job.first();
  RingPlace place;
  int mine = warp;  // the pair of the next stage's blocks that is this warp's
#pragma unroll 1
  for (int n_units = rehearsal ? 0 : job.n_units();; --n_units) {
    const int n_steps = job.n_steps(unit), n_blocks = staged_blocks(n_steps);
    if (n_units == 0 || !kept.has_room(n_blocks)) kept.add_up(rehearsal);
    if (n_units == 0) return;
    const StagedRow staged = job.x(unit, n_blocks);
    const uint32_t x = staged.row + x_at, units = staged.units;
    const uint32_t keep = shared_address(kept.place()) + keeps;
#pragma unroll 1
    for (int first = 0; first < n_blocks; first += kStreamWarps) {
      const int n_pairs = (min(n_blocks - first, kStreamWarps) + 1) / 2;
      const int in_stage = 2 * mine, block = first + in_stage;  // the pair's first one
      const bool is_mine = mine < n_pairs, has_second = block + 1 < n_blocks;
      const bool has_block = has_second || (lane & 2) == 0;  // block t / 2
      uint4 chunk;
      float x_unit = 1;
      if (is_mine) {
        const int back = has_second ? 0 : (lane & 16) * (StagedRows<W>::kBlockBytes / 16);
        chunk = load_shared_16(x + block * StagedRows<W>::kBlockBytes - back);
        if constexpr (W::kScaled)
          x_unit =
              __uint_as_float(load_shared_4(units + (block + (has_block ? lane / 2 & 1 : 0)) * 4));
      }
      wait_barrier(&ring.full[place.stage], place.parity);
      if (is_mine) {
        const uint32_t rows = rows_at + place.stage * sizeof(StreamStage) + in_stage * 128;
        constexpr int kHigh = 8 * kRowPitch;
        uint4 low[4], high[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          low[i] = load_shared_16(rows + i * 64);
          high[i] = load_shared_16(rows + kHigh + i * 64);
        }
        float scale = 1;
        if constexpr (W::kScaled) {
          const uint32_t at = scales_at + place.stage * sizeof(StreamStage) + in_stage * 4;
          ScaleWord word = {load_shared_4(at), 0};
          if (job.ue8m0()) word.shift = load_shared_4(at + sizeof(StreamStage::scales));
          scale = scale_value(job.ue8m0(), word);
        }
        float steps[2];
        multiply_steps<W>(low, high, chunk, lane, steps);
        // What lies behind the row's end in a stage is of another one.
        if (2 * block + (lane & 3) >= n_steps) steps[0] = steps[1] = 0;
        const float blocks[2] = {block_of_steps(steps[0]), block_of_steps(steps[1])};
        const float product = (lane & 1) == 0 ? blocks[0] : blocks[1];
        const uint32_t to = keep + block * (kKeptFloats * 4);
        if (has_block) {
          store_shared_4(to, W::kScaled ? product * x_unit : product);
          if (W::kScaled && lane < 4) store_shared_4(to + 8 * 4, scale);
        }
      }
      // Not before the products: what is read of the stage is in registers only where it is used,
      // and the arrival overtakes loads under way.
      __syncwarp();
      arrive(&ring.empty[place.stage]);
      place.advance(ring.n_stages);
      mine = (mine - n_pairs) & (kStreamWarps - 1);
    }
    kept.add(n_blocks);
    job.next(unit);
  }
}

#endif

}  // namespace dsr::cuda
