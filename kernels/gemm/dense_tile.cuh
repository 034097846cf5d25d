// Which rows and tokens a block of the dense GEMMs multiplies, and where the result goes. For Tile
// (tiled.cuh) and WideTile (wide.cuh), tiles of kTokens tokens and blocks of kThreads threads.
#pragma once

#include "gemm/linear_kernels.h"
#include "gemm/tiled.cuh"

namespace dsr::cuda {

// So that their activations, and the rows of weights they share, come from the L2.
inline constexpr int kTilesTogether = 16;

template <bool kPaired, int kTokens, int kThreads>
class DenseTile {
 public:
  // Blocks go through kTilesTogether tiles of tokens before they go to the next rows.
  __device__ explicit DenseTile(const DenseProduct& p) : p_(p) {
    const int per_group = (p.w.units_per_group + kTiledUnits - 1) / kTiledUnits;
    const int n_tiles = (p.n_tokens + kTokens - 1) / kTokens;
    const int n_rows = per_group * (p.w.n_units / p.w.units_per_group);  // blocks of 8 units
    const int id = static_cast<int>(blockIdx.x), part = id / (kTilesTogether * n_rows);
    const int n = min(kTilesTogether, n_tiles - part * kTilesTogether);
    const int in_part = id - part * kTilesTogether * n_rows, rows = in_part / n;
    first_token_ = (part * kTilesTogether + in_part - rows * n) * kTokens;
    group_ = rows / per_group;
    first_unit_ = (rows - group_ * per_group) * kTiledUnits;
  }

  __device__ __forceinline__ const DenseLayout& layout() const { return p_.w.layout; }
  __device__ __forceinline__ RowPair rows(int slot, int lane) const {
    const int u = min(first_unit_ + slot, p_.w.units_per_group - 1);
    return rows_of<kPaired>(p_.w, group_ * p_.w.units_per_group + u, lane);
  }
  __device__ __forceinline__ const std::byte* x() const { return p_.x; }
  __device__ __forceinline__ uint32_t x_offset(int token) const {
    const int t = first_token_ + token;
    return t < p_.n_tokens
               ? static_cast<uint32_t>(t) * static_cast<uint32_t>(p_.x_stride_bytes) +
                     static_cast<uint32_t>(group_) * static_cast<uint32_t>(p_.x_group_bytes)
               : kNoToken;
  }

  __device__ __forceinline__ void store(const float* tile) const {
    const int tid = static_cast<int>(threadIdx.x);
    const int n = min(kTokens, p_.n_tokens - first_token_);
    if constexpr (kPaired) {
      const int f = tid % 64, slot = f / 8, r = slot * 16 + f % 8;
      const int column = first_unit_ * 8 + f;
      if (column >= p_.w.segments[0].rows) return;
      for (int t = tid / 64; t < n; t += kThreads / 64) {
        const float* at = tile + t * kTileStride + r;
        put(t, column, silu(at[0]) * at[8]);
      }
    } else {
      static_assert(kThreads % kTiledRows == 0, "a thread stores tokens of one row");
      const int row = tid % kTiledRows, unit = first_unit_ + row / 16;
      if (unit >= p_.w.units_per_group) return;
      const UnitPlace place = place_of(p_.w, group_ * p_.w.units_per_group + unit);
      if (place.first_row + row % 16 >= place.segment.rows) return;
      const int column =
          place.group * p_.w.group_columns + place.segment.column + place.first_row + row % 16;
      const float bias = p_.bias != nullptr ? p_.bias[column] : 0.0f;
      for (int t = tid / kTiledRows; t < n; t += kThreads / kTiledRows) {
        const float sum = tile[t * kTileStride + row];
        put(t, column, p_.bias != nullptr ? sum + bias : sum);
      }
    }
  }

 private:
  __device__ __forceinline__ void put(int token, int column, float value) const {
    store_as(p_.out, p_.out_f32, int64_t{first_token_ + token} * p_.out_stride + column, value);
  }

  const DenseProduct& p_;
  int first_token_, group_, first_unit_;
};

// Blocks of 8 units, in each group, times tiles of n tokens: a grid.
inline unsigned dense_tile_blocks(const DenseProduct& p, int64_t n) {
  const int64_t per_group = (p.w.units_per_group + kTiledUnits - 1) / kTiledUnits;
  const int64_t n_groups = p.w.n_units / p.w.units_per_group;
  return static_cast<unsigned>((p.n_tokens + n - 1) / n * per_group * n_groups);
}

}  // namespace dsr::cuda
