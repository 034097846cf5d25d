// Which rows and pairs a block of the grouped GEMMs multiplies, and where the result goes.
#pragma once

#include "gemm/silu.cuh"
#include "gemm/tiled.cuh"
#include "moe/expert_rows.cuh"

namespace dsr::cuda {

// One tile of pairs of one expert and 8 units of its gate and up, or of its down. For Tile
// (gemm/tiled.cuh) and WideTile (gemm/wide.cuh) in blocks of kThreads threads.
template <bool kGateUp, int kThreads>
class ExpertTile {
 public:
  __device__ ExpertTile(const ExpertsCall& c, const ExpertPlan& plan)
      : c_(c),
        plan_(plan),
        expert_(plan.tile_expert[blockIdx.y]),
        first_(plan.tile_first[blockIdx.y]),
        n_(plan.tile_pairs[blockIdx.y]),
        first_unit_(static_cast<int>(blockIdx.x) * kTiledUnits) {}

  __device__ __forceinline__ const DenseLayout& layout() const {
    return kGateUp ? c_.gate_up : c_.down;
  }
  __device__ __forceinline__ RowPair rows(int slot, int lane) const {
    if constexpr (kGateUp) return gate_up_rows(c_, expert_, first_unit_ + slot, lane);
    return down_rows(c_, expert_, first_unit_ + slot, lane);
  }
  __device__ __forceinline__ const std::byte* x() const {
    return kGateUp ? c_.x : reinterpret_cast<const std::byte*>(c_.hidden);
  }
  __device__ __forceinline__ uint32_t x_offset(int i) const {
    if (i >= n_) return kNoToken;
    if constexpr (kGateUp)
      return static_cast<uint32_t>(plan_.sorted[first_ + i] / c_.K) *
             static_cast<uint32_t>(c_.x_stride_bytes);
    return static_cast<uint32_t>(first_ + i) * static_cast<uint32_t>(c_.F * 2);
  }
  __device__ __forceinline__ void store(const float* tile) const {
    const int tid = static_cast<int>(threadIdx.x);
    if constexpr (kGateUp) {
      const int f = tid % 64, column = first_unit_ * 8 + f;
      if (column >= c_.F) return;
      for (int i = tid / 64; i < n_; i += kThreads / 64) {
        const float* at = tile + i * kTileStride + f / 8 * 16 + f % 8;
        c_.hidden[int64_t{first_ + i} * c_.F + column] = from_float<bf16>(silu(at[0]) * at[8]);
      }
    } else {
      static_assert(kThreads % kTiledRows == 0, "a thread stores pairs of one row");
      const int row = tid % kTiledRows, column = first_unit_ * 16 + row;
      if (column >= c_.D) return;
      for (int i = tid / kTiledRows; i < n_; i += kThreads / kTiledRows)
        plan_.products[int64_t{plan_.sorted[first_ + i]} * c_.D + column] =
            tile[i * kTileStride + row];
    }
  }

 private:
  const ExpertsCall& c_;
  const ExpertPlan& plan_;
  int expert_, first_, n_, first_unit_;
};

}  // namespace dsr::cuda
