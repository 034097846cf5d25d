// linear, swiglu and mla_value for many tokens. Mapping, order and memory: tiled.cuh.
//
// Needs     DenseWeight; x in 16-byte chunks.
// Traffic   from memory the weights once per 1024 tokens; from the L2 the weights once per 64
// tokens
//           and the activations once per 128 rows.
#include "gemm/linear_kernels.h"
#include "gemm/tiled.cuh"

namespace dsr::cuda {
namespace {

// So that their activations, and the rows of weights they share, come from the L2.
constexpr int kTilesTogether = 16;

template <bool kPaired>
class DenseTile {
 public:
  // Blocks go through kTilesTogether tiles of tokens before they go to the next rows.
  __device__ explicit DenseTile(const DenseProduct& p) : p_(p) {
    const int per_group = (p.w.units_per_group + kTiledUnits - 1) / kTiledUnits;
    const int n_tiles = (p.n_tokens + kTiledTokens - 1) / kTiledTokens;
    const int n_rows = per_group * (p.w.n_units / p.w.units_per_group);  // blocks of 8 units
    const int id = static_cast<int>(blockIdx.x), part = id / (kTilesTogether * n_rows);
    const int n = min(kTilesTogether, n_tiles - part * kTilesTogether);
    const int in_part = id - part * kTilesTogether * n_rows, rows = in_part / n;
    first_token_ = (part * kTilesTogether + in_part - rows * n) * kTiledTokens;
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
    const int n = min(kTiledTokens, p_.n_tokens - first_token_);
    if constexpr (kPaired) {
      const int f = tid % 64, slot = f / 8, r = slot * 16 + f % 8;
      const int column = first_unit_ * 8 + f;
      if (column >= p_.w.segments[0].rows) return;
      for (int t = tid / 64; t < n; t += kTiledThreads / 64) {
        const float* at = tile + t * kTileStride + r;
        put(t, column, silu(at[0]) * at[8]);
      }
    } else {
      static_assert(kTiledThreads == kTiledRows, "a thread stores one row");
      const int unit = first_unit_ + tid / 16;
      if (unit >= p_.w.units_per_group) return;
      const UnitPlace place = place_of(p_.w, group_ * p_.w.units_per_group + unit);
      if (place.first_row + tid % 16 >= place.segment.rows) return;
      const int column =
          place.group * p_.w.group_columns + place.segment.column + place.first_row + tid % 16;
      const float bias = p_.bias != nullptr ? p_.bias[column] : 0.0f;
      for (int t = 0; t < n; ++t) {
        const float sum = tile[t * kTileStride + tid];
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

// Grid: token tiles times blocks of 8 units.
template <typename W, bool kPaired>
__global__ __launch_bounds__(kTiledThreads,
                             2) void tiled_kernel(const __grid_constant__ DenseProduct p) {
  extern __shared__ uint4 shared[];
  const DenseTile<kPaired> job(p);
  Tile<W, DenseTile<kPaired>> tile(job, *reinterpret_cast<TileRing<W>*>(shared));
  tile.run([] { wait_for_previous_kernel(); });
  job.store(reinterpret_cast<const float*>(shared));
}

template <typename W, bool kPaired>
void run(Exec& exec, const char* op, const DenseProduct& p) {
  const int64_t per_group = (p.w.units_per_group + kTiledUnits - 1) / kTiledUnits;
  const int64_t n_groups = p.w.n_units / p.w.units_per_group;
  const int64_t n_tiles = (p.n_tokens + kTiledTokens - 1) / kTiledTokens;
  launch(exec, op,
         {.grid = dim3(static_cast<unsigned>(n_tiles * per_group * n_groups)),
          .threads = kTiledThreads,
          .shared_bytes = sizeof(TileRing<W>)},
         tiled_kernel<W, kPaired>, p);
}

}  // namespace

void tiled_linear(Exec& exec, const char* op, const DenseProduct& p) {
  p.w.layout.fp8 ? run<Fp8Weight, false>(exec, op, p) : run<Bf16Weight, false>(exec, op, p);
}
void tiled_swiglu(Exec& exec, const char* op, const DenseProduct& p) {
  p.w.layout.fp8 ? run<Fp8Weight, true>(exec, op, p) : run<Bf16Weight, true>(exec, op, p);
}

}  // namespace dsr::cuda
