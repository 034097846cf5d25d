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
// A block of threads has so many units, with so many blocks of K; the longest unit has n_unit.
inline KeptPlan plan_kept(int64_t n_units, int64_t n_blocks, int n_unit) {
  if (n_units <= kKeptUnits && n_blocks <= kKeptBlocks) return {narrow(n_blocks), 1};
  return {std::max(kKeptBlocks, n_unit), 2};
}
// The most that any needs.
inline KeptPlan largest_kept(int n_unit) { return {std::max(kKeptBlocks, n_unit), 2}; }
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

// A job says
//   Unit, first(), next(unit), n_units()
//   layout(unit)          DenseLayout of its weights
//   rows(unit, lane)      RowPair
//   x(unit)               StagedTile of the token
//   n_slices(unit)        in which its blocks are added up
//   finish(unit, row, total, there)  takes a row's sum, by a half of a warp for its 16 rows
template <typename W, typename Job>
class KeptProducts {
 public:
  using Unit = typename Job::Unit;
  __device__ KeptProducts(Job& job, float* memory, const KeptPlan& plan)
      : job_(job), memory_(memory), plan_(plan) {}

  // Where the unit's block b is kept.
  __device__ __forceinline__ float* at(int b) const {
    return memory_ + (odd_ * plan_.n_blocks + n_blocks_ + b) * kKeptFloats<W>;
  }
  // By all multiplying warps, when they have done with a unit. Adds up what is kept when there is
  // no room for the next one.
  __device__ __forceinline__ void end_unit(const Unit& unit, bool last) {
    if (n_units_ == 0) first_ = unit;
    ++n_units_;
    n_blocks_ += blocks_of(unit);
    Unit next = unit;
    job_.next(next);
    if (!last && n_units_ < kKeptUnits && n_blocks_ + blocks_of(next) <= plan_.n_blocks) return;
    consumers_barrier();
    add_up();
    n_units_ = n_blocks_ = 0;
    odd_ ^= 1;
  }

 private:
  __device__ __forceinline__ int blocks_of(const Unit& unit) const {
    return staged_blocks(job_.layout(unit).n_steps);
  }
  __device__ __forceinline__ void add_up() const {
    const int mine = static_cast<int>(threadIdx.x) / 16, row = static_cast<int>(threadIdx.x) % 16;
    if (mine / 2 * 2 >= n_units_) return;  // all of a warp
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
    job_.finish(unit, row, total, mine < n_units_);
  }

  Job& job_;
  float* const memory_;
  const KeptPlan plan_;
  Unit first_;
  int n_units_ = 0, n_blocks_ = 0, odd_ = 0;
};

// The eight warps: all units of the job.
template <typename W, typename Job>
__device__ __forceinline__ void multiply_one_token(Job& job, const RingView& ring, float* memory,
                                                   const KeptPlan& plan) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int at = lane / 4 * kRowPitch + lane % 4 * 16;
  KeptProducts<W, Job> kept(job, memory, plan);
  typename Job::Unit unit = job.first();
  RingPlace place;
  int mine = warp;  // the block of the next stage that is this warp's
#pragma unroll 1
  for (int n_units = job.n_units(); n_units > 0; --n_units) {
    const DenseLayout& l = job.layout(unit);
    const int n_blocks = staged_blocks(l.n_steps);
    const StagedTile<W> x = job.x(unit);
#pragma unroll 1
    for (int first = 0; first < n_blocks; first += kStreamWarps) {
      const StreamStage& stage = ring.stages[place.stage];
      const int n = min(n_blocks - first, kStreamWarps);
      const bool is_mine = mine < n;
      BlockX<W> tile;
      uint4 low[2], high[2];
      float scale_low = 1, scale_high = 1;
      if (is_mine) x.take(first + mine, lane, tile);
      wait_barrier(&ring.full[place.stage], place.parity);
      if (is_mine) {
        const bool whole = 2 * (first + mine) + 1 < l.n_steps;
        const auto* rows = reinterpret_cast<const uint4*>(&stage.rows[0][0] + at + mine * 128);
        constexpr int kHigh = 8 * kRowPitch / 16;
        const uint4 zero = make_uint4(0, 0, 0, 0);
        low[0] = rows[0], low[1] = whole ? rows[4] : zero;
        high[0] = rows[kHigh], high[1] = whole ? rows[kHigh + 4] : zero;
        if constexpr (W::kScaled) {
          scale_low = scale_value(l, {stage.scales[0][mine], stage.shifts[0][mine]});
          scale_high = scale_value(l, {stage.scales[1][mine], stage.shifts[1][mine]});
        }
      }
      __syncwarp();  // all lanes have read the stage
      arrive(&ring.empty[place.stage]);
      place.advance(ring.n_stages);
      if (is_mine) {
        BlockWeights<W> weights;
        expand_block<W>(low, high, weights);
        float products[4];
        multiply_block(weights, tile, products);
        float* const to = kept.at(first + mine);
        if (lane % 4 == 0) {
          to[lane / 4] = products[0];
          to[lane / 4 + 8] = products[2];
        }
        if (W::kScaled && lane == 0) to[16] = scale_low, to[17] = scale_high;
      }
      mine = (mine - n) & (kStreamWarps - 1);
    }
    kept.end_unit(unit, n_units == 1);
    job.next(unit);
  }
}

#endif

}  // namespace dsr::cuda
