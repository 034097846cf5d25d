// The loop of every kernel that reads weights for few tokens: decode is this loop at the speed of
// memory.
//
// Mapping   a block is 8 warps. Its units (16 rows each, weight_units.cuh) are a contiguous range
//           of all units; every warp goes through all of them, in its own eighth of K: each eighth
//           step, so that the block reads 512 neighbouring bytes of a row at a time. Weights go
//           through a ring of kStages steps (1 KB each) per warp in shared memory, filled without a
//           break from one unit to the next; a thread reads back what it fetched itself.
// Order     slice w of K is the steps w, w + 8, w + 16, ... added in this order; the eight sums of
// a row are added from left to right. A column of the
//           product does not see its neighbours. So a token's result depends on its own row and the
//           weight, and on nothing else.
// Memory    up to kStages KB in flight per warp. Activations come through L1, where all units of a
//           block find them again.
#pragma once

#include "gemm/silu.cuh"
#include "gemm/weight_units.cuh"

namespace dsr::cuda {

inline constexpr int kSkinnyWarps = 8, kSkinnyThreads = kSkinnyWarps * 32;
inline constexpr int kStages = 8;
// A row of a block's sums: 16 and a pad that keeps the stores of a quad off each other's banks.
inline constexpr int kSumStride = 20;

struct alignas(16) WeightRing {
  uint4 rows[kSkinnyWarps][kStages][2][32];  // low and high, of every lane
  // The words around the scales of low and high, and where in them ue8m0 scales stand.
  uint32_t scales[kSkinnyWarps][kStages][4];
};
static_assert(sizeof(WeightRing) == 65536 + 1024);

// Where the activations of a unit lie: bytes from `x` to the start of the row of token 8 j + g, and
// how many tokens there are.
template <int kTiles>
struct UnitTokens {
  uint32_t offset[kTiles];
  int n;
};

// The activations of step `step` of token tile j, or zeros.
template <typename W, int kTiles>
__device__ __forceinline__ void load_x(const std::byte* x, const UnitTokens<kTiles>& tokens, int j,
                                       int step, int lane, uint4 (&out)[W::kXChunks]) {
  const int g = lane / 4, t = lane % 4;
  const bool valid = j * 8 + g < tokens.n;
  const std::byte* from =
      x + tokens.offset[j] + step * (W::kStepColumns * 2) + t * (W::kXChunks * 16);
#pragma unroll
  for (int c = 0; c < W::kXChunks; ++c)
    out[c] = valid ? reinterpret_cast<const uint4*>(from)[c] : make_uint4(0, 0, 0, 0);
}

// Puts this warp's slice of the rows into L1, all misses at once; later loads then hit.
template <typename W, int kTiles>
__device__ __forceinline__ void touch_x(const std::byte* x, const UnitTokens<kTiles>& tokens,
                                        int first_step, int end_step, int lane) {
  const int g = lane / 4, t = lane % 4;
  constexpr int kStepBytes = W::kStepColumns * 2;
  uint32_t seen = 0;
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    if (j * 8 + g >= tokens.n) continue;
    for (int step = first_step + kSkinnyWarps * t; step < end_step; step += 4 * kSkinnyWarps)
      seen |= *reinterpret_cast<const uint32_t*>(x + tokens.offset[j] + step * kStepBytes);
  }
  if (tokens.n < 0 && seen == 1) __trap();  // never: it keeps the loads from being dropped
}

// One warp's fetching of weights, kStages steps ahead of their use.
template <typename W, typename Job>
class Fetcher {
 public:
  __device__ Fetcher(const Job& job, WeightRing& ring, int first_unit, int end_unit, int first_step,
                     int end_step)
      : job_(job),
        rows_address_(shared_address(&ring.rows[warp_][0][0][lane_])),
        scales_(ring.scales[warp_][0] + lane_ % 2),
        unit_(first_step < end_step ? first_unit : end_unit),
        end_unit_(end_unit),
        step_(first_step),
        end_step_(end_step) {
    if (unit_ < end_unit_) start_unit();
  }
  // The next step into a slot of the ring; one group of copies, empty after the last step.
  __device__ __forceinline__ void fetch(int slot) {
    if (unit_ < end_unit_) {
      const uint32_t to = rows_address_ + static_cast<uint32_t>(slot) * 1024;
      stream_async_16(to, low_);
      stream_async_16(to + 512, high_);
      if (W::kScaled && lane_ < 2) fetch_scale(scales_ + slot * 4);
      low_ += kSkinnyWarps * 64;
      high_ += kSkinnyWarps * 64;
      step_ += kSkinnyWarps;
      if (step_ >= end_step_) next_unit();
    }
    commit_copies();
  }

 private:
  // Lanes 0 and 1, each its own scale.
  __device__ __forceinline__ void fetch_scale(uint32_t* to) const {
    const DenseLayout& l = job_.layout();
    const int block = step_ >> l.scale_step_shift;
    if (!l.ue8m0) {
      copy_async_4(to, scale_ + 4 * block);
    } else {
      const auto at = reinterpret_cast<uintptr_t>(scale_) + static_cast<uintptr_t>(block);
      // The word around it is there: allocations are whole multiples of kAlignBytes.
      copy_async_4(to, reinterpret_cast<const void*>(at & ~uintptr_t{3}));
      to[2] = static_cast<uint32_t>(at & 3) * 8;
    }
  }
  __device__ __forceinline__ void start_unit() {
    const RowPair r = job_.rows(unit_, lane_);
    low_ = r.low + step_ * 64;
    high_ = r.high + step_ * 64;
    scale_ = lane_ == 0 ? r.scale_low : r.scale_high;
    scale_row_ = lane_ == 0 ? r.first_low : r.first_high;
    run_ = r.run;
  }
  __device__ __forceinline__ void next_unit() {
    const int fetched = step_ - warp_;  // steps: where the next unit's rows are, seen from here
    step_ = warp_;
    if (++unit_ >= end_unit_) return;
    if (run_ == 0) return start_unit();
    --run_;
    const DenseLayout& l = job_.layout();
    const int64_t distance = Job::kRowsPerUnit * l.row_bytes - fetched * 64;
    low_ += distance;
    high_ += distance;
    if constexpr (W::kScaled) {
      const int row = scale_row_ + Job::kRowsPerUnit;
      scale_ +=
          ((row >> l.block_rows_shift) - (scale_row_ >> l.block_rows_shift)) * l.scale_row_bytes;
      scale_row_ = row;
    }
  }

  const int lane_ = static_cast<int>(threadIdx.x) % 32, warp_ = static_cast<int>(threadIdx.x) / 32;
  const Job& job_;
  const uint32_t rows_address_;
  uint32_t* const scales_;
  const std::byte* low_ = nullptr;
  const std::byte* high_ = nullptr;
  const std::byte* scale_ = nullptr;
  int scale_row_ = 0, run_ = 0;
  int unit_, end_unit_, step_, end_step_;
};

// acc[j] += step weights times the tokens of every tile j, the next tile's activations on their way
// while this one is multiplied.
template <typename W, int kTiles>
__device__ __forceinline__ void multiply_step(const std::byte* x, const UnitTokens<kTiles>& tokens,
                                              int step, int lane,
                                              const uint32_t (&a)[W::kProducts][4], float scale_low,
                                              float scale_high, uint4 (&x_tile)[W::kXChunks],
                                              float (&acc)[kTiles][4]) {
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    if (j > 0 && j * 8 >= tokens.n) break;
    uint4 next[W::kXChunks];
    if (j + 1 < kTiles) load_x<W>(x, tokens, j + 1, step, lane, next);
    add_step(W{}, acc[j], a, x_tile, scale_low, scale_high);
    if (j + 1 < kTiles) {
#pragma unroll
      for (int c = 0; c < W::kXChunks; ++c) x_tile[c] = next[c];
    }
  }
}

// Goes through the units [first, end) of a job:
//   layout()             DenseLayout of its weights
//   rows(unit, lane)     RowPair; kRowsPerUnit
//   tokens(unit, lane)   UnitTokens<kTiles>
//   finish(unit, acc)    takes this warp's sums of a unit: row g and g + 8, tokens 8 j + 2 t, + 1
// `ready` is called when the first weights are on their way: wait_for_previous_kernel, or nothing.
template <typename W, int kTiles, typename Job, typename Ready>
__device__ __forceinline__ void go_through_units(Job& job, WeightRing& ring, const std::byte* x,
                                                 bool touch_first, int first, int end,
                                                 const Ready& ready) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int n_steps = job.layout().n_steps;
  const int first_step = warp, end_step = n_steps;
  Fetcher<W, Job> fetcher(job, ring, first, end, first_step, end_step);
#pragma unroll 1
  for (int slot = 0; slot < kStages; ++slot) fetcher.fetch(slot);
  ready();
  // Two steps at a time where registers allow it: their products do not wait for each other.
  constexpr int kAtOnce = kTiles <= 2 ? 2 : 1;
  int slot = 0;
#pragma unroll 1
  for (int unit = first; unit < end; ++unit) {
    const UnitTokens<kTiles> tokens = job.tokens(unit, lane);
    if (touch_first && unit == first) touch_x<W>(x, tokens, first_step, end_step, lane);
    float acc[kTiles][4] = {};
#pragma unroll 1
    for (int step = first_step; step < end_step; step += kAtOnce * kSkinnyWarps) {
      uint4 x_tile[kAtOnce][W::kXChunks], low[kAtOnce], high[kAtOnce];
      float scale_low[kAtOnce], scale_high[kAtOnce];
      bool valid[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        valid[i] = i == 0 || step + i * kSkinnyWarps < end_step;
        if (valid[i]) {
          load_x<W>(x, tokens, 0, step + i * kSkinnyWarps, lane, x_tile[i]);
        } else {
#pragma unroll
          for (int c = 0; c < W::kXChunks; ++c) x_tile[i][c] = make_uint4(0, 0, 0, 0);
        }
      }
      wait_for_copies<kStages - kAtOnce>();
      __syncwarp();  // the scales have arrived for all lanes
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int at = (slot + i) % kStages;
        low[i] = valid[i] ? ring.rows[warp][at][0][lane] : make_uint4(0, 0, 0, 0);
        high[i] = valid[i] ? ring.rows[warp][at][1][lane] : make_uint4(0, 0, 0, 0);
        scale_low[i] = scale_high[i] = 0;
        if (W::kScaled && valid[i]) {
          const uint4 s = *reinterpret_cast<const uint4*>(ring.scales[warp][at]);
          scale_low[i] = scale_value(job.layout(), {s.x, s.z});
          scale_high[i] = scale_value(job.layout(), {s.y, s.w});
        }
      }
      __syncwarp();  // all lanes have read them
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i)
        if (valid[i]) fetcher.fetch((slot + i) % kStages);
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        // Sums of a step of its own: zeros add nothing, and a branch would part the two chains.
        if (!W::kScaled && !valid[i]) continue;
        uint32_t a[W::kProducts][4];
        fragments(W{}, low[i], high[i], a);
        multiply_step<W, kTiles>(x, tokens, valid[i] ? step + i * kSkinnyWarps : step, lane, a,
                                 scale_low[i], scale_high[i], x_tile[i], acc);
      }
      slot = (slot + (valid[kAtOnce - 1] ? kAtOnce : 1)) % kStages;
    }
    job.finish(unit, acc);
  }
}

// --- sums of a block ----------------------------------------------------------------------------

// Every warp's sums of a unit, [8 warps][8 kTiles tokens][kSumStride].
template <int kTiles>
__device__ __forceinline__ void store_sums(float* sums, const float (&acc)[kTiles][4],
                                           int n_tokens) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int g = lane / 4, t = lane % 4;
  float* mine = sums + (warp * kTiles * 8 + 2 * t) * kSumStride + g;
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    if (j * 8 >= n_tokens) break;
    float* at = mine + j * 8 * kSumStride;
    at[0] = acc[j][0];
    at[kSumStride] = acc[j][1];
    at[8] = acc[j][2];
    at[kSumStride + 8] = acc[j][3];
  }
}
// The sum of one row of one token over all warps, from left to right.
template <int kTiles>
__device__ __forceinline__ float sum_of_warps(const float* sums, int token, int row) {
  const float* at = sums + token * kSumStride + row;
  float sum = at[0];
#pragma unroll
  for (int w = 1; w < kSkinnyWarps; ++w) sum += at[w * kTiles * 8 * kSumStride];
  return sum;
}
// One buffer of sums where two would not leave room for a second block.
template <int kTiles>
inline constexpr int kSumBuffers = kTiles <= 2 ? 2 : 1;
template <int kTiles>
constexpr int64_t sums_bytes() {
  return int64_t{kSkinnyWarps} * kTiles * 8 * kSumStride * 4;
}

// The largest number of blocks of this kind that work at once: two fit on an SM beside the first
// blocks of the next kernel.
inline int64_t skinny_blocks(int64_t n_units, int n_sms) {
  const int64_t at_once = int64_t{2} * n_sms;
  const int64_t per_block = (n_units + at_once - 1) / at_once;
  return (n_units + per_block - 1) / per_block;
}

}  // namespace dsr::cuda
