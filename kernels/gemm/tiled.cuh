// The loop of every kernel that multiplies weights with many tokens.
//
// Mapping   a block of 4 warps makes 128 rows (8 units, weight_units.cuh) times 64 tokens, 64
//           columns of K at a time; a warp 32 rows times all 64 tokens, so a weight is expanded
//           once for 64 products. Weights and activations come through a ring of kTiledStages in
//           shared memory; a thread reads back the weights it fetched itself.
// Order     one sum over K in steps of 64 bytes of a row: a function of K alone, but not the order
//           of skinny.cuh.
// Memory    16 KB (fp8) or 24 KB (bf16) per stage.
#pragma once

#include "gemm/silu.cuh"
#include "gemm/weight_units.cuh"

namespace dsr::cuda {

inline constexpr int kTiledWarps = 4, kTiledThreads = kTiledWarps * 32;
inline constexpr int kTiledTokens = 64, kTiledUnits = 8, kTiledRows = kTiledUnits * 16;
inline constexpr int kTiledStages = 4;
inline constexpr int kTiledColumns = 64;  // of K, in a stage
// The finished tile in shared memory; the pad keeps a quad's stores off each other's banks.
inline constexpr int kTileStride = kTiledRows + 4;

template <typename W>
struct alignas(16) TileRing {
  static constexpr int kSteps = kTiledColumns / W::kStepColumns;
  uint4 x[kTiledStages][kTiledTokens][8];  // [tokens][64] bf16 in chunks of 8, swizzled
  uint4 rows[kTiledStages][kTiledWarps][2][kSteps][2][32];
  ScaleWord scales[kTiledStages][kTiledWarps][4];
  uint32_t x_offsets[kTiledTokens];
};
static_assert(sizeof(TileRing<Fp8Weight>) >= kTiledTokens * kTileStride * sizeof(float),
              "the finished tile takes the ring's place");

// Where chunk c of row r stands. 8 lanes read at once: rows g and g + 1, and of each the chunks 0,
// 2, 4, 6 (+ 1) for fp8 and 0..3 (+ 4) for bf16; these land in 8 different groups of banks.
__device__ __forceinline__ int swizzled(Fp8Weight, int r, int c) { return c ^ (r & 7); }
__device__ __forceinline__ int swizzled(Bf16Weight, int r, int c) {
  return c ^ ((r & 1) * 4 + ((r >> 1) & 3));
}

inline constexpr uint32_t kNoToken = 0xffffffffu;

// One block's product:
//   layout()            DenseLayout of the weights
//   rows(slot, lane)    RowPair of unit `slot` of the block's 8
//   x()                 activations, and x_offset(token), bytes from there to the row of one of the
//                       block's 64 tokens; kNoToken for none
//   store(tile)         takes the sums, [64 tokens][kTileStride], all threads together
template <typename W, typename Job>
class Tile {
 public:
  using Ring = TileRing<W>;

  __device__ Tile(const Job& job, Ring& ring) : job_(job), ring_(ring) {
#pragma unroll
    for (int m = 0; m < 2; ++m) rows_[m] = job.rows(warp_ * 2 + m, lane_);
    // Lanes 0..3 fetch the scales of (unit 0, low), (unit 0, high), (unit 1, low), (unit 1, high).
    const std::byte* low = lane_ < 2 ? rows_[0].scale_low : rows_[1].scale_low;
    const std::byte* high = lane_ < 2 ? rows_[0].scale_high : rows_[1].scale_high;
    scale_ = lane_ % 2 == 0 ? low : high;
  }
  __device__ __forceinline__ void find_tokens() {
    if (tid_ < kTiledTokens) ring_.x_offsets[tid_] = job_.x_offset(tid_);
    __syncthreads();
  }

  __device__ __forceinline__ void fetch_rows(int block) {
    if (block >= n_blocks()) return;
    const int stage = block % kTiledStages;
#pragma unroll
    for (int s = 0; s < Ring::kSteps; ++s) {
      const int step = block * Ring::kSteps + s;
      const bool valid = step < job_.layout().n_steps;
      const auto at = valid ? static_cast<uint32_t>(step) * 64 : 0;
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        uint4(&to)[2][32] = ring_.rows[stage][warp_][m][s];
        copy_async_16(&to[0][lane_], rows_[m].low + at, valid);
        copy_async_16(&to[1][lane_], rows_[m].high + at, valid);
      }
      if (W::kScaled && lane_ < 4)
        fetch_scale(job_.layout(), scale_, step, ring_.scales[stage][warp_][lane_]);
    }
  }
  __device__ __forceinline__ void fetch_x(int block) {
    if (block >= n_blocks()) return;
    const int stage = block % kTiledStages, chunk = tid_ % 8;
    // Columns of K there are, in steps of the weight's rows.
    const bool inside = chunk * 8 + block * kTiledColumns < job_.layout().n_steps * W::kStepColumns;
    const auto at = static_cast<uint32_t>((block * kTiledColumns + chunk * 8) * 2);
#pragma unroll
    for (int i = 0; i < kXRows; ++i) {
      const int row = tid_ / 8 + i * (kTiledThreads / 8);
      const uint32_t offset = ring_.x_offsets[row];
      const bool valid = inside && offset != kNoToken;
      copy_async_16(&ring_.x[stage][row][swizzled(W{}, row, chunk)],
                    job_.x() + (valid ? offset + at : 0), valid);
    }
  }

  __device__ __forceinline__ void multiply(int block) {
    const int stage = block % kTiledStages, g = lane_ / 4, t = lane_ % 4;
#pragma unroll
    for (int s = 0; s < Ring::kSteps; ++s) {
      uint32_t a[2][W::kProducts][4];
      float scale_low[2] = {1, 1}, scale_high[2] = {1, 1};
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        const uint4(&from)[2][32] = ring_.rows[stage][warp_][m][s];
        fragments(W{}, from[0][lane_], from[1][lane_], a[m]);
        if constexpr (W::kScaled) {
          scale_low[m] = scale_value(job_.layout(), ring_.scales[stage][warp_][2 * m]);
          scale_high[m] = scale_value(job_.layout(), ring_.scales[stage][warp_][2 * m + 1]);
        }
      }
#pragma unroll
      for (int j = 0; j < kTiledTokens / 8; ++j) {
        uint4 x[W::kXChunks];
#pragma unroll
        for (int c = 0; c < W::kXChunks; ++c) {
          const int chunk = s * 4 * W::kXChunks + t * W::kXChunks + c;
          x[c] = ring_.x[stage][j * 8 + g][swizzled(W{}, j * 8 + g, chunk)];
        }
#pragma unroll
        for (int m = 0; m < 2; ++m) add_step(W{}, acc_[m][j], a[m], x, scale_low[m], scale_high[m]);
      }
    }
  }

  // Weights ahead of the wait, activations after it.
  template <typename Ready>
  __device__ __forceinline__ void run(const Ready& ready) {
#pragma unroll 1
    for (int b = 0; b < kTiledStages - 1; ++b) fetch_rows(b);
    ready();
    find_tokens();
#pragma unroll 1
    for (int b = 0; b < kTiledStages - 1; ++b) {
      fetch_x(b);
      commit_copies();  // the first group takes all the weights above with it
    }
#pragma unroll 1
    for (int b = 0; b < n_blocks(); ++b) {
      wait_for_copies<kTiledStages - 2>();
      __syncthreads();  // block b is there for all; all have left the stage that is filled next
      fetch_rows(b + kTiledStages - 1);
      fetch_x(b + kTiledStages - 1);
      commit_copies();
      multiply(b);
    }
    wait_for_copies<0>();
    __syncthreads();
    store_tile();
    __syncthreads();
  }

 private:
  __device__ __forceinline__ int n_blocks() const {
    return (job_.layout().n_steps + Ring::kSteps - 1) / Ring::kSteps;
  }
  static constexpr int kXRows = kTiledTokens * 8 / kTiledThreads;  // that a thread fetches

  __device__ __forceinline__ void store_tile() {
    auto* tile = reinterpret_cast<float*>(&ring_);
    const int g = lane_ / 4, t = lane_ % 4;
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int j = 0; j < kTiledTokens / 8; ++j) {
        float* at = tile + (j * 8 + 2 * t) * kTileStride + warp_ * 32 + m * 16 + g;
        at[0] = acc_[m][j][0];
        at[kTileStride] = acc_[m][j][1];
        at[8] = acc_[m][j][2];
        at[kTileStride + 8] = acc_[m][j][3];
      }
    }
  }

  const int tid_ = static_cast<int>(threadIdx.x), lane_ = tid_ % 32, warp_ = tid_ / 32;
  const Job& job_;
  Ring& ring_;
  RowPair rows_[2];
  const std::byte* scale_;
  float acc_[2][kTiledTokens / 8][4] = {};
};

}  // namespace dsr::cuda
