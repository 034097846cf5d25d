// A weight of any type, alignment and block shape, one value at a time.
#pragma once

#include "common/types.cuh"
#include "tensor/quant.h"

namespace dsr::cuda {

struct PlainSegment {
  const std::byte* data;  // [rows, K]
  const std::byte* scales;
  DType dtype, scale_dtype;
};
struct PlainLayout {
  int64_t K;
  int block_rows, block_columns;  // 1 where nothing is quantised
  int64_t scale_columns;
};

inline PlainSegment plain_segment(const WeightSegment& s) {
  return {.data = static_cast<const std::byte*>(s.data.data),
          .scales = static_cast<const std::byte*>(s.scales.data),
          .dtype = s.data.dtype,
          .scale_dtype = s.scales.dtype};
}
inline PlainLayout plain_layout(const QuantScheme& quant, int64_t K) {
  if (quant.block_columns == 0) return {K, 1, 1, K};
  return {K, static_cast<int>(quant.block_rows), static_cast<int>(quant.block_columns),
          (K + quant.block_columns - 1) / quant.block_columns};
}

// Row `row`, column `k`, as dequantize_row has it.
__device__ __forceinline__ float plain_value(const PlainSegment& s, const PlainLayout& l,
                                             int64_t row, int64_t k) {
  const int64_t at = row * l.K + k;
  switch (s.dtype) {
    case DType::kF32:
      return reinterpret_cast<const float*>(s.data)[at];
    case DType::kBF16:
      return to_float(reinterpret_cast<const bf16*>(s.data)[at]);
    case DType::kF16:
      return to_float(reinterpret_cast<const f16*>(s.data)[at]);
    default: {
      const int64_t block = row / l.block_rows * l.scale_columns + k / l.block_columns;
      const float scale = s.scale_dtype == DType::kF32
                              ? reinterpret_cast<const float*>(s.scales)[block]
                              : to_float(reinterpret_cast<const e8m0*>(s.scales)[block]);
      return to_float(reinterpret_cast<const e4m3*>(s.data)[at]) * scale;
    }
  }
}

// out[j] = row . x[j] for n <= kTokens rows of activations, by one warp: every lane sums its own
// columns, then the lanes are added in a fixed order. The same in all lanes.
template <int kTokens>
__device__ __forceinline__ void plain_dots(const PlainSegment& s, const PlainLayout& l, int64_t row,
                                           const bf16* x, int64_t x_stride, int n,
                                           float (&out)[kTokens]) {
#pragma unroll
  for (int j = 0; j < kTokens; ++j) out[j] = 0;
  for (int64_t k = threadIdx.x % 32; k < l.K; k += 32) {
    const float w = plain_value(s, l, row, k);
#pragma unroll
    for (int j = 0; j < kTokens; ++j)
      if (j < n) out[j] = fmaf(to_float(x[j * x_stride + k]), w, out[j]);
  }
#pragma unroll
  for (int j = 0; j < kTokens; ++j)
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
      out[j] += __shfl_xor_sync(0xffffffffu, out[j], offset);
}

}  // namespace dsr::cuda
