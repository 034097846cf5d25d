// The loop of every kernel that multiplies weights with many tokens on sm_90.
//
// Mapping   a block of 2 warpgroups makes 128 rows (8 units, weight_units.cuh) times kTokens
// tokens,
//           128 columns of K at a time, by wgmma on bf16 in shared memory. A warp brings the rows
//           whose sums it gets: e4m3 codes through registers, expanded on their way to shared
//           memory while the products of the block of columns before run; bf16 by cp.async.
//           Activations come by cp.async, kStages - 1 blocks ahead.
// Order     one sum over K, scaled every 128 columns: a function of K alone, but not the order of
//           stream.cuh.
// Memory    64 KB a stage for 128 tokens, 3 stages; 48 KB for 64, 2 stages and two blocks an SM.
#pragma once

#include "common/wgmma.cuh"
#include "gemm/tiled.cuh"

namespace dsr::cuda {

inline constexpr int kWideThreads = 256;
inline constexpr int kWideColumns = 128;  // of K, in a stage: two operands of 64
inline constexpr int kWideAlign = 1024;   // of operands

template <int kTokens>
struct WideRing {
  static constexpr int kStages = kTokens > 64 ? 3 : 2;
  uint4 rows[kStages][2][kTiledRows][8];  // [rows][64] bf16 in chunks of 8, swizzled
  uint4 x[kStages][2][kTokens][8];        // [tokens][64]
  uint32_t x_offsets[kTokens];
};
template <int kTokens>
inline constexpr int64_t kWideBytes = sizeof(WideRing<kTokens>) + kWideAlign;
static_assert(sizeof(WideRing<64>) >= 64 * kTileStride * sizeof(float) &&
                  sizeof(WideRing<128>) >= 128 * kTileStride * sizeof(float),
              "the finished tile takes the ring's place");

// Shared memory from the first place on where an operand may stand.
template <int kTokens>
__device__ __forceinline__ WideRing<kTokens>& wide_ring(uint4* shared) {
  const uint32_t past = shared_address(shared) % kWideAlign;
  return *reinterpret_cast<WideRing<kTokens>*>(shared + (kWideAlign - past) % kWideAlign / 16);
}

// Job: as for Tile (tiled.cuh), for 256 threads and kTokens tokens.
template <typename W, int kTokens, typename Job>
class WideTile {
 public:
  using Ring = WideRing<kTokens>;
  static constexpr int kStages = Ring::kStages;
  static constexpr int kSteps = kWideColumns / W::kStepColumns;  // of 64 bytes of a row

  __device__ WideTile(const Job& job, Ring& ring)
      : job_(job), ring_(ring), rows_(job.rows(warp_, lane_)) {}

  // Weights ahead of the wait, activations after it.
  template <typename Ready>
  __device__ __forceinline__ void run(const Ready& ready) {
    if constexpr (W::kScaled) {
      load_codes(0);
      store_codes(0);
      load_codes(1);
    } else {
#pragma unroll 1
      for (int b = 0; b < kStages - 1; ++b) copy_rows(b);
    }
    ready();
    find_tokens();
#pragma unroll 1
    for (int b = 0; b < kStages - 1; ++b) {
      copy_x(b);
      commit_copies();  // the first group takes all the weights above with it
    }
#pragma unroll 1
    for (int b = 0; b < n_blocks(); ++b) {
      wait_for_copies<kStages - 2>();
      fence_for_wgmma();
      __syncthreads();  // block b is there for all; all have left the stage that is filled next
      begin_wgmma();
      multiply(b);
      commit_wgmma();
      copy_x(b + kStages - 1);
      if constexpr (!W::kScaled) copy_rows(b + kStages - 1);
      commit_copies();
      if constexpr (W::kScaled) {
        const float low = scale_of(scale_low_), high = scale_of(scale_high_);
        store_codes(b + 1);
        load_codes(b + 2);
        wait_for_wgmma();
        add_scaled(low, high);
      } else {
        wait_for_wgmma();
      }
    }
    wait_for_copies<0>();
    __syncthreads();
    store_tile();
    __syncthreads();
  }

 private:
  static constexpr int kXRows = kTokens / (kWideThreads / 8);  // that a thread fetches

  __device__ __forceinline__ int n_blocks() const {
    return (job_.layout().n_steps + kSteps - 1) / kSteps;
  }
  __device__ __forceinline__ void find_tokens() {
    if (tid_ < kTokens) ring_.x_offsets[tid_] = job_.x_offset(tid_);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kXRows; ++i) x_offsets_[i] = ring_.x_offsets[tid_ / 8 + 32 * i];
  }

  __device__ __forceinline__ void copy_x(int block) {
    if (block >= n_blocks()) return;
    const int stage = block % kStages, chunk = tid_ % 8;
    const int columns = job_.layout().n_steps * W::kStepColumns;  // of K there are
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      const int column = block * kWideColumns + s * 64 + chunk * 8;
#pragma unroll
      for (int i = 0; i < kXRows; ++i) {
        const int row = tid_ / 8 + 32 * i;
        const bool valid = column < columns && x_offsets_[i] != kNoToken;
        const uint32_t at = valid ? x_offsets_[i] + static_cast<uint32_t>(column) * 2 : 0;
        copy_async_16(&ring_.x[stage][s][row][chunk ^ (row & 7)], job_.x() + at, valid);
      }
    }
  }

  // bf16: the warp's 16 rows.
  __device__ __forceinline__ void copy_rows(int block) {
    if (block >= n_blocks()) return;
    const int stage = block % kStages, g = lane_ / 4, t = lane_ % 4, row = warp_ * 16 + g;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const int step = block * kSteps + s;
      const bool valid = step < job_.layout().n_steps;
      const auto at = valid ? static_cast<uint32_t>(step) * 64 : 0;
      uint4(&to)[kTiledRows][8] = ring_.rows[stage][s / 2];
      const int chunk = (s % 2 * 4 + t) ^ g;
      copy_async_16(&to[row][chunk], rows_.low + at, valid);
      copy_async_16(&to[row + 8][chunk], rows_.high + at, valid);
    }
  }

  // e4m3: a thread's 16 codes of two rows and two steps, and the scales of block `block`.
  __device__ __forceinline__ void load_codes(int block) {
    if (block >= n_blocks()) return;
    const DenseLayout& l = job_.layout();
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      const int step = block * 2 + s;
      const auto at = static_cast<uint32_t>(step) * 64;
      const bool valid = step < l.n_steps;
      low_[s] = valid ? load_once(rows_.low + at) : make_uint4(0, 0, 0, 0);
      high_[s] = valid ? load_once(rows_.high + at) : make_uint4(0, 0, 0, 0);
    }
    next_scale_low_ = load_scale(rows_.scale_low, block * 2);
    next_scale_high_ = load_scale(rows_.scale_high, block * 2);
  }
  // Expands what load_codes brought, and makes its scales those of the products that come.
  __device__ __forceinline__ void store_codes(int block) {
    scale_low_ = next_scale_low_;
    scale_high_ = next_scale_high_;
    if (block >= n_blocks()) return;
    const int stage = block % kStages, g = lane_ / 4, t = lane_ % 4, row = warp_ * 16 + g;
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      uint4(&to)[kTiledRows][8] = ring_.rows[stage][s];
      store_expanded(low_[s], to[row], 2 * t, g);
      store_expanded(high_[s], to[row + 8], 2 * t, g);
    }
  }
  __device__ __forceinline__ static void store_expanded(const uint4& codes, uint4 (&row)[8],
                                                        int chunk, int swizzle) {
    uint4 first, second;
    bf16_from_e4m3(codes.x, first.x, first.y);
    bf16_from_e4m3(codes.y, first.z, first.w);
    bf16_from_e4m3(codes.z, second.x, second.y);
    bf16_from_e4m3(codes.w, second.z, second.w);
    row[chunk ^ swizzle] = first;
    row[(chunk + 1) ^ swizzle] = second;
  }
  // The bits of a scale; those of ue8m0 are turned into a float when they are needed.
  __device__ __forceinline__ uint32_t load_scale(const std::byte* row, int step) const {
    const DenseLayout& l = job_.layout();
    const int block = step >> l.scale_step_shift;
    return l.ue8m0 ? reinterpret_cast<const uint8_t*>(row)[block]
                   : reinterpret_cast<const uint32_t*>(row)[block];
  }
  __device__ __forceinline__ float scale_of(uint32_t bits) const {
    return job_.layout().ue8m0 ? to_float(e8m0{static_cast<uint8_t>(bits)}) : __uint_as_float(bits);
  }

  __device__ __forceinline__ void multiply(int block) {
    const int stage = block % kStages, first = warp_ / 4 * 64;
#pragma unroll
    for (int k = 0; k < kWideColumns / 16; ++k) {
      const uint64_t a = wgmma_operand(&ring_.rows[stage][k / 4][first], k % 4);
      const uint64_t b = wgmma_operand(&ring_.x[stage][k / 4], k % 4);
      if constexpr (W::kScaled)
        wgmma_bf16(sum_, a, b, k > 0);
      else
        wgmma_bf16(acc_, a, b, true);
    }
  }
  __device__ __forceinline__ void add_scaled(float low, float high) {
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
      acc_[j][0] = fmaf(sum_[j][0], low, acc_[j][0]);
      acc_[j][1] = fmaf(sum_[j][1], low, acc_[j][1]);
      acc_[j][2] = fmaf(sum_[j][2], high, acc_[j][2]);
      acc_[j][3] = fmaf(sum_[j][3], high, acc_[j][3]);
    }
  }

  __device__ __forceinline__ void store_tile() {
    auto* tile = reinterpret_cast<float*>(&ring_);
    const int g = lane_ / 4, t = lane_ % 4;
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
      float* at = tile + (j * 8 + 2 * t) * kTileStride + warp_ * 16 + g;
      at[0] = acc_[j][0];
      at[kTileStride] = acc_[j][1];
      at[8] = acc_[j][2];
      at[kTileStride + 8] = acc_[j][3];
    }
  }

  const int tid_ = static_cast<int>(threadIdx.x), lane_ = tid_ % 32, warp_ = tid_ / 32;
  const Job& job_;
  Ring& ring_;
  const RowPair rows_;
  uint32_t x_offsets_[kXRows];
  uint4 low_[2], high_[2];
  uint32_t next_scale_low_ = 0, next_scale_high_ = 0, scale_low_ = 0, scale_high_ = 0;
  float acc_[kTokens / 8][4] = {};
  float sum_[kTokens / 8][4] = {};  // of a block of columns, where there are scales
};

}  // namespace dsr::cuda
