// linear, swiglu and the head-wise products for up to 64 tokens. See skinny.cuh.
#pragma once

#include "gemm/linear_kernels.h"
#include "gemm/skinny.cuh"

namespace dsr::cuda {

template <int kTiles, bool kPaired>
class DenseJob {
 public:
  static constexpr int kRowsPerUnit = kPaired ? 8 : 16;
  __device__ DenseJob(const DenseProduct& p, float* sums) : p_(p), sums_(sums) {}

  __device__ __forceinline__ const DenseLayout& layout() const { return p_.w.layout; }
  __device__ __forceinline__ RowPair rows(int unit, int lane) const {
    return rows_of<kPaired>(p_.w, unit, lane);
  }
  __device__ __forceinline__ UnitTokens<kTiles> tokens(int unit, int lane) const {
    UnitTokens<kTiles> out;
    const auto group =
        static_cast<uint32_t>(unit < p_.w.units_per_group ? 0 : unit / p_.w.units_per_group);
#pragma unroll
    for (int j = 0; j < kTiles; ++j)
      out.offset[j] =
          static_cast<uint32_t>(j * 8 + lane / 4) * static_cast<uint32_t>(p_.x_stride_bytes) +
          group * static_cast<uint32_t>(p_.x_group_bytes);
    out.n = p_.n_tokens;
    return out;
  }
  __device__ __forceinline__ void finish(int unit, const float (&acc)[kTiles][4]) {
    store_sums(sums_, acc, p_.n_tokens);
    __syncthreads();
    constexpr int kRows = kPaired ? 8 : 16;
    const UnitColumns columns = columns_of<kPaired>(p_.w, unit);
    for (int i = static_cast<int>(threadIdx.x); i < kRows * p_.n_tokens; i += kSkinnyThreads) {
      const int token = i / kRows, row = i % kRows;
      if (row >= columns.n) continue;
      float value = sum_of_warps<kTiles>(sums_, token, row);
      if constexpr (kPaired) {
        value = silu(value) * sum_of_warps<kTiles>(sums_, token, row + 8);
      } else if (p_.bias != nullptr) {
        value += p_.bias[columns.first + row];
      }
      store_as(p_.out, p_.out_f32, token * p_.out_stride + columns.first + row, value);
    }
    if constexpr (kSumBuffers<kTiles> == 1) {
      __syncthreads();
    } else {  // the other buffer was read before the barrier above
      odd_ = !odd_;
      sums_ += odd_ ? sums_bytes<kTiles>() / 4 : -sums_bytes<kTiles>() / 4;
    }
  }

 private:
  const DenseProduct& p_;
  float* sums_;
  bool odd_ = false;
};

template <typename W, int kTiles, bool kPaired>
__global__ __launch_bounds__(kSkinnyThreads,
                             2) void skinny_kernel(const __grid_constant__ DenseProduct p) {
  extern __shared__ uint4 shared[];
  auto& ring = *reinterpret_cast<WeightRing*>(shared);
  auto* sums = reinterpret_cast<float*>(&ring + 1);
  DenseJob<kTiles, kPaired> job(p, sums);
  const int64_t n = p.w.n_units, b = blockIdx.x;
  go_through_units<W, kTiles>(job, ring, p.x, p.touch_x, static_cast<int>(b * n / gridDim.x),
                              static_cast<int>((b + 1) * n / gridDim.x),
                              [] { wait_for_previous_kernel(); });
}

template <typename W, int kTiles, bool kPaired>
void launch_skinny(Exec& exec, const char* op, const DenseProduct& p) {
  const LaunchShape shape = {
      .grid = dim3(static_cast<unsigned>(skinny_blocks(p.w.n_units, exec.cuda().n_sms()))),
      .threads = kSkinnyThreads,
      .shared_bytes = int64_t{sizeof(WeightRing)} + kSumBuffers<kTiles> * sums_bytes<kTiles>()};
  launch(exec, op, shape, skinny_kernel<W, kTiles, kPaired>, p);
}

template <bool kPaired>
void run_skinny(Exec& exec, const char* op, const DenseProduct& p) {
  with_tiles(p.w.layout.fp8, p.n_tokens, [&](auto weight, auto tiles) {
    launch_skinny<decltype(weight), tiles.value, kPaired>(exec, op, p);
  });
}

}  // namespace dsr::cuda
