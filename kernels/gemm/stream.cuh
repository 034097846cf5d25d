// The loop of every kernel that reads weights for few tokens on sm_90: decode is this loop at the
// speed of memory. skinny.cuh is its counterpart for older GPUs.
//
// Mapping   a block or two per SM (stream_blocks): 8 warps multiply, 4 fetch. Units are 16 rows
//           (weight_units.cuh). A stage of the ring is 1 KB of each of a unit's rows, copied by the
//           copy engine, and a warp takes 128 bytes of it: so a unit's K is shared out over the
//           warps. The fetching warps, 4 rows each, run ahead as far as the ring allows, from one
//           unit to the next, and do not wait for the kernel before: weights are on their way while
//           that one ends. (One warp alone starts copies more slowly than they arrive.)
// Order     slice w of K is the blocks w, w + 8, w + 16, ... of 128 bytes, added in this order; a
//           block is the sum of its two halves, scaled. The eight sums of a row are added from left
//           to right. A column of the product does not see its neighbours: a token's result depends
//           on its own row and the weight, and on nothing else.
// Operands  bf16 weights meet bf16 activations as they are; FP8 codes and activations become f16
//           (half_operands.cuh), the activations in shared memory once per block where they fit
//           (StagedRows), else in every warp, which fetches them a block ahead (XAhead).
// Memory    68 KB of weights in flight per block, up to 119 where it is alone on its SM and has
//           many (stream_dense.cuh). With few tokens a block takes half of an SM, or little more,
//           so that one of the next kernel fits beside it, and not two of either on one SM and none
//           on another.
#pragma once

#include <algorithm>

#include "gemm/silu.cuh"
#include "gemm/stream_x.cuh"
#include "gemm/weight_units.cuh"

namespace dsr::cuda {

inline constexpr int kFetchWarps = 4, kStreamThreads = kConsumers + kFetchWarps * 32;
inline constexpr int kFetchRows = 16 / kFetchWarps;  // of a unit, and scales of a stage, per warp
inline constexpr int kStageBytes = kStreamWarps * 128;  // of a row
// Rows g and g + 1 of a quarter of a warp's reads lie in different halves of the banks.
inline constexpr int kRowPitch = kStageBytes + 64;
// A row of a block's sums: 16 and a pad that keeps the stores of a quad off each other's banks.
inline constexpr int kStreamSumStride = 20;

struct alignas(128) StreamStage {
  std::byte rows[16][kRowPitch];
  // The words around the scales of low and high, of every warp's block, and where in them ue8m0
  // scales stand.
  uint32_t scales[2][kStreamWarps];
  uint32_t shifts[2][kStreamWarps];
};
// A ring of any length, wherever it lies.
struct RingView {
  StreamStage* stages;
  uint64_t *full, *empty;  // [n_stages]
  int n_stages;
};
template <int kStages>
struct Ring {
  StreamStage stages[kStages];
  uint64_t full[kStages], empty[kStages];
  __device__ __forceinline__ RingView view() { return {stages, full, empty, kStages}; }
};
inline constexpr int kStreamStages = 4;
using StreamRing = Ring<kStreamStages>;
// Registers for so many blocks on an SM: codes and activations that are both turned into operands
// leave no room for a second one.
template <typename W, int kTiles, bool kStaged>
inline constexpr int kStreamBlocksPerSm = kTiles == 1 && (kStaged || !W::kScaled) ? 2 : 1;

// Units whose sums are kept until they are added up together, in each of two buffers; of one where
// there are many tokens.
__host__ __device__ constexpr int held_units(int n_tokens) {
  return n_tokens == 1 ? 4 : n_tokens <= 4 ? 2 : 1;
}
__host__ __device__ constexpr int sum_buffers(int n_tokens) { return n_tokens <= 16 ? 2 : 1; }
// Room for them where a unit has n tokens at most; a multiple of 16.
constexpr int64_t held_sums_bytes(int n_tokens) {
  return int64_t{held_units(n_tokens)} * sum_buffers(n_tokens) * kStreamWarps * n_tokens *
         kStreamSumStride * 4;
}

#if __CUDA_ARCH__ >= 900

// One thread, before publish_barriers(). A stage is empty after so many arrivals.
__device__ __forceinline__ void init_ring(const RingView& ring, int n_arrivals, bool scaled,
                                          bool ue8m0) {
  for (int s = 0; s < ring.n_stages; ++s) {
    init_barrier(&ring.full[s], kFetchWarps + (scaled ? 16 : 0) + (ue8m0 ? 16 : 0));
    init_barrier(&ring.empty[s], n_arrivals);
  }
}
// All threads of the block, for a ring whose stages all multiplying warps read.
__device__ __forceinline__ void init_ring(const RingView& ring, bool scaled, bool ue8m0) {
  if (threadIdx.x == 0) {
    init_ring(ring, kConsumers, scaled, ue8m0);
    publish_barriers();
  }
  __syncthreads();
}

__device__ __forceinline__ void consumers_barrier() { wait_for_threads<1, kConsumers>(); }

struct RingPlace {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void advance(int n_stages) {
    if (++stage == n_stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// One of a stage's scales, of low or high, of the block `item` % 8 of those that begin at byte `at`
// of their rows; and the arrival of it. `scales`: of the row.
__device__ __forceinline__ void fetch_stage_scale(const DenseLayout& l, const std::byte* scales,
                                                  int at, int item, StreamStage& stage,
                                                  uint64_t* full) {
  const int half = item / 8, column = item % 8, step = at / 64 + 2 * column;
  if (step < l.n_steps) {
    const ScalePlace from = scale_place(l, scales, step);
    copy_async_4(&stage.scales[half][column], from.word);
    if (l.ue8m0) stage.shifts[half][column] = from.shift;
  }
  arrive_after_copies(full);
  if (l.ue8m0) arrive(full);
}

// A fetching warp. Lanes 0..3 fetch a row each, lanes 4..7 a scale of low or high unless somebody
// else does (kScales).
template <typename W, typename Job, bool kScales = true>
class StreamProducer {
 public:
  __device__ StreamProducer(const Job& job, const RingView& ring) : job_(job), ring_(ring) {}

  // Goes on until `n_units` have been fetched, or for n_stages.
  __device__ __forceinline__ void run(int n_units, int n_stages) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x - kConsumers) / 32;
    const int item = warp * kFetchRows + lane % kFetchRows;  // row, or scale
#pragma unroll 1
    for (; n_done_ < n_units && n_stages > 0; --n_stages) {
      const DenseLayout& l = job_.layout(unit_);
      const int n_bytes = l.n_steps * 64;
      if (at_ == 0) {
        const RowPair r = job_.rows(unit_, item % 8 * 4);
        if constexpr (kScales)
          from_ = lane < kFetchRows ? (item < 8 ? r.low : r.high)
                                    : (item < 8 ? r.scale_low : r.scale_high);
        else
          from_ = item < 8 ? r.low : r.high;
      }
      StreamStage& stage = ring_.stages[place_.stage];
      uint64_t* full = &ring_.full[place_.stage];
      wait_barrier(&ring_.empty[place_.stage], place_.parity ^ 1);
      const int bytes = min(kStageBytes, n_bytes - at_);
      if (lane == 0) arrive_expecting(full, static_cast<uint32_t>(kFetchRows * bytes));
      __syncwarp();
      if (lane < kFetchRows)
        copy_bulk_evict_first(stage.rows[item], from_ + at_, static_cast<uint32_t>(bytes), full);
      else if (kScales && W::kScaled && lane < 2 * kFetchRows)
        fetch_stage_scale(l, from_, at_, item, stage, full);
      place_.advance(ring_.n_stages);
      at_ += kStageBytes;
      if (at_ >= n_bytes) {
        at_ = 0;
        ++n_done_;
        job_.next(unit_);
      }
    }
  }
  // Where the units begin, before the first run; and where they go on, between two.
  __device__ __forceinline__ void go_to(const typename Job::Unit& unit) { unit_ = unit; }

 private:
  const Job& job_;
  const RingView ring_;
  RingPlace place_;
  typename Job::Unit unit_;
  const std::byte* from_ = nullptr;
  int n_done_ = 0, at_ = 0;
};

// A block's weights as operands of its products: two steps, chains that do not wait for each other.
template <typename W>
struct BlockWeights {
  uint32_t a[2][W::kProducts][4];
};
template <typename W>
__device__ __forceinline__ void expand_block(const uint4 (&low)[2], const uint4 (&high)[2],
                                             BlockWeights<W>& out) {
#pragma unroll
  for (int p = 0; p < W::kProducts; ++p) {
    product_weights(W{}, low[0], high[0], p, out.a[0][p]);
    product_weights(W{}, low[1], high[1], p, out.a[1][p]);
  }
}

// [16, 8] = a block's two steps times a tile of tokens, before the weights' scales.
__device__ __forceinline__ void multiply_block(const BlockWeights<Fp8Weight>& w,
                                               const BlockX<Fp8Weight>& x, float (&out)[4]) {
  float sum[2][4] = {};
#pragma unroll
  for (int p = 0; p < Fp8Weight::kProducts; ++p)
#pragma unroll
    for (int i = 0; i < 2; ++i)
      mma_f16(sum[i], w.a[i][p], word_of(x.x[i][p / 2], p % 2 * 2),
              word_of(x.x[i][p / 2], p % 2 * 2 + 1));
#pragma unroll
  for (int k = 0; k < 4; ++k) out[k] = (sum[0][k] + sum[1][k]) * x.units[k % 2];
}
__device__ __forceinline__ void multiply_block(const BlockWeights<Bf16Weight>& w,
                                               const BlockX<Bf16Weight>& x, float (&out)[4]) {
  float sum[2][4] = {};
#pragma unroll
  for (int p = 0; p < Bf16Weight::kProducts; ++p)
#pragma unroll
    for (int i = 0; i < 2; ++i)
      mma_bf16(sum[i], w.a[i][p], word_of(x.x[i][0], 2 * p), word_of(x.x[i][0], 2 * p + 1));
#pragma unroll
  for (int k = 0; k < 4; ++k) out[k] = sum[0][k] + sum[1][k];
}
// acc += a block's products; bf16 weights have no scales.
template <typename W>
__device__ __forceinline__ float add_scaled(float product, float scale, float acc) {
  return W::kScaled ? fmaf(product, scale, acc) : acc + product;
}
template <typename W>
__device__ __forceinline__ void add_block(const BlockWeights<W>& w, const BlockX<W>& x,
                                          float scale_low, float scale_high, float (&acc)[4]) {
  float products[4];
  multiply_block(w, x, products);
#pragma unroll
  for (int k = 0; k < 4; ++k)
    acc[k] = add_scaled<W>(products[k], k < 2 ? scale_low : scale_high, acc[k]);
}

// The eight warps. Goes through n_units of a job from `unit`:
//   Unit, next(unit)     which one
//   layout(unit)         DenseLayout of its weights
//   rows(unit, lane)     RowPair
//   n_tokens(unit)
//   row(unit, i)         which row of activations its i-th token has
//   x(unit, row)         where that row lies
//   finish(unit, acc, last)  takes this warp's sums: row g and g + 8, tokens 8 j + 2 t, + 1
// Activations come from x_of.at(job, unit, lane).take(block, lane, out): SharedStagedX or XAhead.
template <typename W, int kTiles, typename Job, typename X>
__device__ __forceinline__ void consume(Job& job, const RingView& ring, RingPlace& place,
                                        typename Job::Unit unit, int n_units, X x_of) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int at = lane / 4 * kRowPitch + warp * 128 + lane % 4 * 16;
#pragma unroll 1
  for (; n_units > 0; --n_units) {
    // Past the last token it is that one's again, for columns that nobody stores.
    const int n_tokens = job.n_tokens(unit);
    const std::byte* const x = job.x(unit, 0);
    uint32_t x_row[kTiles];  // of this lane's token of every tile but the first, from x
#pragma unroll
    for (int j = 1; j < kTiles; ++j) {
      const int row = job.row(unit, min(j * 8 + lane / 4, n_tokens - 1));
      x_row[j] = static_cast<uint32_t>(job.x(unit, row) - x);
    }
    auto&& unit_x = x_of.at(job, unit, lane);
    const DenseLayout& l = job.layout(unit);
    float acc[kTiles][4] = {};
#pragma unroll 1
    for (int step = 2 * warp; step - 2 * warp < l.n_steps; step += 2 * kStreamWarps) {
      const StreamStage& stage = ring.stages[place.stage];
      const bool valid = step < l.n_steps, whole = step + 1 < l.n_steps;
      BlockX<W> x_tile;
      if (valid) unit_x.take(step / 2, lane, x_tile);
      wait_barrier(&ring.full[place.stage], place.parity);
      if (valid) {
        const auto* rows = reinterpret_cast<const uint4*>(&stage.rows[0][0] + at);
        constexpr int kHigh = 8 * kRowPitch / 16;
        const uint4 zero = make_uint4(0, 0, 0, 0);
        const uint4 low[2] = {rows[0], whole ? rows[4] : zero};
        const uint4 high[2] = {rows[kHigh], whole ? rows[kHigh + 4] : zero};
        BlockWeights<W> weights;
        expand_block<W>(low, high, weights);
        float scale_low = 1, scale_high = 1;
        if constexpr (W::kScaled) {
          scale_low = scale_value(l, {stage.scales[0][warp], stage.shifts[0][warp]});
          scale_high = scale_value(l, {stage.scales[1][warp], stage.shifts[1][warp]});
        }
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {  // the next tile's activations on their way meanwhile
          if (j > 0 && j * 8 >= n_tokens) break;
          BlockX<W> next;
          if (j + 1 < kTiles && (j + 1) * 8 < n_tokens)
            load_x<W>(x + x_row[j + 1], step, whole, lane, next);
          if (j > 0) make_operands(x_tile, lane);
          add_block(weights, x_tile, scale_low, scale_high, acc[j]);
          if (j + 1 < kTiles) x_tile = next;
        }
      }
      __syncwarp();  // all lanes have read the stage
      arrive(&ring.empty[place.stage]);
      place.advance(ring.n_stages);
    }
    job.finish(unit, acc, n_units == 1);
    job.next(unit);
  }
}

// --- sums of a block ----------------------------------------------------------------------------

// Sums of a unit of n tokens: [8 warps][n][kStreamSumStride].
__device__ __forceinline__ int sums_floats(int n) { return kStreamWarps * n * kStreamSumStride; }
template <int kTiles>
__device__ __forceinline__ void keep_sums(float* sums, const float (&acc)[kTiles][4], int n) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int g = lane / 4, t = lane % 4;
  float* mine = sums + (warp * n + 2 * t) * kStreamSumStride + g;
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    float* at = mine + j * 8 * kStreamSumStride;
    if (j * 8 + 2 * t < n) {
      at[0] = acc[j][0];
      at[8] = acc[j][2];
    }
    if (j * 8 + 2 * t + 1 < n) {
      at[kStreamSumStride] = acc[j][1];
      at[kStreamSumStride + 8] = acc[j][3];
    }
  }
}
// The sum of one row of one token over all warps, from left to right.
__device__ __forceinline__ float total(const float* sums, int n, int token, int row) {
  const float* at = sums + token * kStreamSumStride + row;
  float sum = at[0];
#pragma unroll
  for (int w = 1; w < kStreamWarps; ++w) sum += at[w * n * kStreamSumStride];
  return sum;
}

// The sums of the latest units, until finish() adds them up together: so that warps meet once for
// several units. The next ones go into the other buffer while the last warps still read.
template <typename Unit, int kTiles>
class HeldSums {
 public:
  // n: tokens of the unit with the most.
  __device__ HeldSums(float* sums, int n)
      : sums_(sums), stride_(sums_floats(n)), n_units_(held_units(n)), two_(sum_buffers(n) == 2) {}

  // store(unit, token, row, sums) is called by one thread for each of kRows rows of every token;
  // n_tokens(unit), next(unit) as in a job.
  template <int kRows, typename Job>
  __device__ __forceinline__ void keep(const Job& job, const Unit& unit,
                                       const float (&acc)[kTiles][4], bool last) {
    if (n_held_ == 0) first_ = unit;
    float* buffer = sums_ + odd_ * n_units_ * stride_;
    keep_sums(buffer + n_held_ * stride_, acc, job.n_tokens(unit));
    ++n_held_;
    if (n_held_ < n_units_ && !last) return;
    consumers_barrier();
    Unit held = first_;
    const int row = static_cast<int>(threadIdx.x) % kRows;
    int at = static_cast<int>(threadIdx.x) / kRows;  // in the tokens of all held units
    for (int h = 0; h < n_held_; ++h) {
      const int n = job.n_tokens(held);
      for (; at < n; at += kConsumers / kRows) job.store(held, at, row, buffer + h * stride_);
      at -= n;
      if (h + 1 < n_held_) job.next(held);
    }
    n_held_ = 0;
    if (two_)
      odd_ ^= 1;
    else
      consumers_barrier();
  }

 private:
  float* const sums_;
  const int stride_, n_units_;
  const bool two_;
  Unit first_;
  int n_held_ = 0, odd_ = 0;
};

#endif

// Two blocks on an SM where there is work for more, and registers; else one, since where they go is
// not ours to say and two of few could share an SM while another has none.
inline int64_t stream_blocks(int64_t n_units, int n_sms, int most_per_sm) {
  const int64_t per_sm = n_units >= int64_t{4} * n_sms ? most_per_sm : 1;
  return std::min(n_units, per_sm * n_sms);
}

// Shared memory that leaves room for as much on the SM; a little more keeps a second block of the
// same kernel away, where the kernel before makes room on some SMs first.
inline constexpr int64_t kHalfSmBytes = 113 * 1024, kAloneBytes = 115 * 1024;
inline constexpr int64_t kSmBytes = 227 * 1024;

}  // namespace dsr::cuda
