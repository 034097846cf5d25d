// One token's experts on sm_90: the loop of both kernels, stream_gate_up_sm90.cu and
// stream_down_sm90.cu.
//
// Mapping   a block has units of 16 rows, those of the shared experts first, all through one ring
//           (stream.cuh): a stage is 1 KB of each row, up to eight blocks of 128 bytes of K, and
//           the multiplying warps share these out, so that a stage is free again after the time of
//           one block. Which warp has a block is said by its number in the sequence of all blocks.
//           Products of a block are kept, in shared memory, and not added up at once: no warp waits
//           for another until the block of threads has done its units, or has no room for more.
// Order     that of the kernels for more tokens, whoever multiplied: a chosen expert's blocks in
//           ascending order (stream_units.cuh), a shared one's in eight slices (stream.cuh).
#pragma once

#include "gemm/stream.cuh"
#include "moe/expert_rows.cuh"

namespace dsr::cuda {

inline constexpr int kMostChosen = 32;  // experts of a token: a fetching warp's lane knows each

// Room for the products of so many blocks of K, once or twice; in both buffers where there are
// more, so that the next ones go to one while the last warps still read the other.
struct KeptPlan {
  int n_blocks, n_buffers;
};
inline constexpr int kKeptBlocks = 128;             // at most, but for a unit of more
inline constexpr int kKeptUnits = kConsumers / 16;  // half a warp adds up each
// 16 rows, and the scales of the first and the last eight.
template <typename W>
inline constexpr int kKeptFloats = W::kScaled ? 18 : 16;
// The most that any needs; the longest unit has n_unit blocks of K.
inline KeptPlan largest_kept(int n_unit) { return {std::max(kKeptBlocks, n_unit), 2}; }
// For a block of threads with so many units, of so many blocks of K.
inline KeptPlan plan_kept(int64_t n_units, int64_t n_blocks, int n_unit) {
  if (n_units <= kKeptUnits && n_blocks <= kKeptBlocks) return {narrow(n_blocks), 1};
  return largest_kept(n_unit);
}
template <typename W>
int64_t kept_bytes(const KeptPlan& p) {
  return (int64_t{p.n_buffers} * p.n_blocks * kKeptFloats<W> * 4 + 15) / 16 * 16;
}
template <typename W>
__device__ __forceinline__ std::byte* behind_kept(float* kept, const KeptPlan& p) {
  return reinterpret_cast<std::byte*>(kept) +
         (p.n_buffers * p.n_blocks * kKeptFloats<W> * 4 + 15) / 16 * 16;
}

#if __CUDA_ARCH__ >= 900

// What the router chose: of lane k of a fetching warp its k-th expert.
__device__ __forceinline__ int chosen_expert(const ExpertsCall& c) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  return lane < c.K ? __ldcg(c.ids + lane) : 0;
}

// A staged row, without the lane's part.
struct StagedRow {
  const std::byte* row;
  const float* units;
};
template <typename W>
__device__ __forceinline__ StagedRow staged_row(std::byte* rows, int n_rows, int row, int n_steps) {
  const int n_blocks = staged_blocks(n_steps);
  return {rows + row * StagedRows<W>::pitch(n_blocks),
          StagedRows<W>::units(rows, n_rows, n_blocks) + row * n_blocks};
}
__device__ __forceinline__ int pinned(int v) {
  asm volatile("" : "+r"(v));
  return v;
}

// A job says
//   Unit, first(), next(unit), n_units()
//   layout(unit)          DenseLayout of its weights
//   rows(unit, lane)      RowPair
//   x(unit)               StagedRow of the token
//   n_slices(unit)        in which its blocks are added up
//   finish(unit, row, total, there)  takes a row's sum, by a half of a warp for its 16 rows
template <typename W, typename Job>
class KeptProducts {
 public:
  using Unit = typename Job::Unit;
  __device__ KeptProducts(Job& job, float* memory, const KeptPlan& plan)
      : job_(job), memory_(memory), plan_(plan) {}

  // Where the next unit's blocks are kept.
  __device__ __forceinline__ float* place() const {
    return memory_ + (odd_ * plan_.n_blocks + n_blocks_) * kKeptFloats<W>;
  }
  __device__ __forceinline__ bool has_room(const Unit& unit) const {
    return n_units_ < kKeptUnits && n_blocks_ + blocks_of(unit) <= plan_.n_blocks;
  }
  __device__ __forceinline__ void add(const Unit& unit) {
    if (n_units_ == 0) first_ = unit;
    ++n_units_;
    n_blocks_ += blocks_of(unit);
  }
  // By all multiplying warps: the sums of what is kept, which they finish. Of units that are not
  // there where this is a rehearsal.
  __device__ __forceinline__ void add_up(bool rehearsal) {
    consumers_barrier();
    if (rehearsal) add(job_.first());
    const int mine = static_cast<int>(threadIdx.x) / 16, row = static_cast<int>(threadIdx.x) % 16;
    if (mine / 2 * 2 < n_units_) {  // the same for all of a warp
      Unit unit = first_;
      const float* from = memory_ + odd_ * plan_.n_blocks * kKeptFloats<W>;
      for (int i = 0; i < min(mine, n_units_ - 1); ++i) {
        from += blocks_of(unit) * kKeptFloats<W>;
        job_.next(unit);
      }
      const int n = blocks_of(unit), n_slices = job_.n_slices(unit);
      float total = 0;
#pragma unroll 1
      for (int w = 0; w < n_slices; ++w) {
        float sum = 0;
#pragma unroll 4
        for (int b = w; b < n; b += n_slices) {
          const float* at = from + b * kKeptFloats<W>;
          sum = add_scaled<W>(at[row], W::kScaled ? at[16 + row / 8] : 1, sum);
        }
        total = w == 0 ? sum : total + sum;
      }
      job_.finish(unit, row, total, mine < n_units_ && !rehearsal);
    }
    n_units_ = n_blocks_ = 0;
    if (plan_.n_buffers == 2) odd_ ^= 1;
  }

 private:
  __device__ __forceinline__ int blocks_of(const Unit& unit) const {
    return staged_blocks(job_.layout(unit).n_steps);
  }

  Job& job_;
  float* const memory_;
  const KeptPlan plan_;
  Unit first_;
  int n_units_ = 0, n_blocks_ = 0, odd_ = 0;
};

// The eight warps: all units of the job. In a rehearsal only what comes after them, without
// results.
template <typename W, typename Job>
__device__ __forceinline__ void multiply_one_token(Job& job, const RingView& ring, float* memory,
                                                   const KeptPlan& plan, bool rehearsal) {
  // What a lane reads and keeps, in registers: else every turn would find out again.
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = pinned(static_cast<int>(threadIdx.x) % 32);
  const int at = pinned(lane / 4 * kRowPitch + lane % 4 * 16), odd = pinned(lane % 2);
  const int x_at = pinned(lane % 4 * (W::kXChunks * 16));
  // A quad has the same products in all lanes, as all columns are the one token's: lanes 0 and 1
  // keep row g and g + 8, lanes 2 and 3 the scales.
  const bool keeps_scale = W::kScaled && lane % 4 >= 2;
  const int keeps = pinned(keeps_scale ? 16 + odd : odd * 8 + lane / 4);
  KeptProducts<W, Job> kept(job, memory, plan);
  typename Job::Unit unit = job.first();
  RingPlace place;
  int mine = warp;  // the block of the next stage that is this warp's
#pragma unroll 1
  for (int n_units = rehearsal ? 0 : job.n_units();; --n_units) {
    if (n_units == 0 || !kept.has_room(unit)) kept.add_up(rehearsal);
    if (n_units == 0) return;
    const DenseLayout& l = job.layout(unit);
    const int n_steps = l.n_steps, n_blocks = staged_blocks(n_steps);
    const StagedRow x = job.x(unit);
    float* const keep = kept.place() + keeps;
#pragma unroll 1
    for (int first = 0; first < n_blocks; first += kStreamWarps) {
      const StreamStage& stage = ring.stages[place.stage];
      const int n = min(n_blocks - first, kStreamWarps), block = first + mine;
      const bool is_mine = mine < n;
      BlockX<W> tile;
      if (is_mine) {
        const auto* from =
            reinterpret_cast<const uint4*>(x.row + block * StagedRows<W>::kBlockBytes + x_at);
#pragma unroll
        for (int c = 0; c < W::kXChunks; ++c) {
          tile.x[0][c] = from[c];
          tile.x[1][c] = from[StagedRows<W>::kChunks / 2 + c];
        }
        if constexpr (W::kScaled) tile.units[0] = tile.units[1] = x.units[block];
      }
      wait_barrier(&ring.full[place.stage], place.parity);
      if (is_mine) {
        const bool whole = 2 * block + 1 < n_steps;
        const auto* rows = reinterpret_cast<const uint4*>(&stage.rows[0][0] + at + mine * 128);
        constexpr int kHigh = 8 * kRowPitch / 16;
        const uint4 zero = make_uint4(0, 0, 0, 0);
        const uint4 low[2] = {rows[0], whole ? rows[4] : zero};
        const uint4 high[2] = {rows[kHigh], whole ? rows[kHigh + 4] : zero};
        float scale = 1;
        if constexpr (W::kScaled)
          scale = scale_value(l, {stage.scales[odd][mine], stage.shifts[odd][mine]});
        BlockWeights<W> weights;
        expand_block<W>(low, high, weights);
        float products[4];
        multiply_block(weights, tile, products);
        keep[block * kKeptFloats<W>] = keeps_scale ? scale : odd == 0 ? products[0] : products[2];
      }
      // Not before the products: what is read of the stage is in registers only where it is used,
      // and the arrival overtakes loads under way.
      __syncwarp();
      arrive(&ring.empty[place.stage]);
      place.advance(ring.n_stages);
      mine = (mine - n) & (kStreamWarps - 1);
    }
    kept.add(unit);
    job.next(unit);
  }
}

#endif

}  // namespace dsr::cuda
