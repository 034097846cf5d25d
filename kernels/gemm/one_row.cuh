// One token's products on sm_90: two blocks of K at a time.
//
// A product has 8 columns for tokens. Here they are pieces of the one token's row: a lane holds a
// chunk of 8 values as operands, not all 16 chunks of two blocks, and of a product of some 16
// columns of K only that column is kept whose lanes hold these. So a warp multiplies two blocks of
// 128 bytes in four chains that do not wait for each other, in few registers.
//
// Step i of four is half i % 2 of block i / 2. Column g (lane / 4) is that of step g / 2; FP8: of
// its chunk g % 2. Lane t of a quad has the columns 2 t and 2 t + 1 of a result, so all of step t.
// Order     within a step and over the steps of a block that of stream.cuh, bit for bit.
#pragma once

#include "gemm/half_operands.cuh"

namespace dsr::cuda {

#if __CUDA_ARCH__ >= 900

// Where column g's chunk lies behind the first in two neighbouring blocks of a row of activations;
// lane t of a quad has t times W::kXChunks chunks more.
template <typename W>
__device__ __forceinline__ int chunk_of_column(int g) {
  return g / 2 * (4 * W::kXChunks) + (W::kXChunks == 2 ? g % 2 : 0);
}

// Of row g and g + 8 the sum of step t, before scales; of two steps in lanes t + 2 as well. x: this
// lane's chunk, of two steps that of g % 4.
template <typename W, int kSteps>
__device__ __forceinline__ void multiply_steps(const uint4 (&low)[kSteps],
                                               const uint4 (&high)[kSteps], const uint4& x,
                                               int lane, float (&out)[2]) {
  static_assert(kSteps == 2 || kSteps == 4);
  float sums[kSteps][4] = {};
#pragma unroll
  for (int p = 0; p < W::kProducts; ++p) {
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      if (W::kScaled && p == 2) {  // from column 2 t to 2 t + 1, where the second chunk is
        sums[i][1] = sums[i][0];
        sums[i][3] = sums[i][2];
      }
      uint32_t a[4];
      product_weights(W{}, low[i], high[i], p, a);
      if constexpr (W::kScaled)
        mma_f16(sums[i], a, word_of(x, p % 2 * 2), word_of(x, p % 2 * 2 + 1));
      else
        mma_bf16(sums[i], a, word_of(x, p * 2), word_of(x, p * 2 + 1));
    }
  }
  const bool first = kSteps == 2 || (lane & 2) == 0, is_even = (lane & 1) == 0;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float even = first ? sums[0][1 + 2 * h] : sums[kSteps - 2][1 + 2 * h];
    const float odd = first ? sums[1][1 + 2 * h] : sums[kSteps - 1][1 + 2 * h];
    out[h] = is_even ? even : odd;
  }
}
// The sum of a block from those of its steps, in both lanes that have one.
__device__ __forceinline__ float block_of_steps(float step) {
  return step + __shfl_xor_sync(0xffffffffu, step, 1);
}

#endif

}  // namespace dsr::cuda
