// FP8 weights times bf16 activations as products of f16, on GPUs that turn e4m3 into f16 in one
// instruction (sm_89 and later). Both are exact: every e4m3 value is an f16, and bf16 values have
// fewer bits than f16; of its smaller range a power of two per token and 128 columns takes care.
//
// A quad holds 128 columns of a token as in weight_units.cuh: 16 at 16 t of each of two steps.
#pragma once

#include <cmath>

#include "gemm/weight_units.cuh"

namespace dsr::cuda {

__device__ __forceinline__ uint32_t word_of(const uint4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

#if __CUDA_ARCH__ >= 890
// Product p of a step: row g, row g + 8.
__device__ __forceinline__ void product_weights(Fp8Weight, const uint4& low, const uint4& high,
                                                int p, uint32_t (&a)[4]) {
  f16_from_e4m3(word_of(low, p), a[0], a[2]);
  f16_from_e4m3(word_of(high, p), a[1], a[3]);
}
__device__ __forceinline__ void product_weights(Bf16Weight, const uint4& low, const uint4& high,
                                                int p, uint32_t (&a)[4]) {
  a[0] = word_of(low, 2 * p), a[1] = word_of(high, 2 * p);
  a[2] = word_of(low, 2 * p + 1), a[3] = word_of(high, 2 * p + 1);
}

// A power of two that divides the activations of a block of 128 columns, such that the largest
// comes to [2^15, 2^16). The quotients are exact but for values below 2^-29 of the largest, which
// are off by 2^-30 of it at most. With an infinity or a NaN in the block the unit is NaN, and so is
// every sum over it.
class HalfUnit {
 public:
  // The larger of so far and a pair's magnitudes, as pairs of bf16.
  __device__ static uint32_t larger(uint32_t so_far, uint32_t pair) {
    return __vmaxu2(so_far, pair & kMagnitudes);
  }
  // Of the largest of all pairs of a block; it is in kLanes neighbouring lanes, or parts of it.
  template <int kLanes>
  __device__ static HalfUnit of(uint32_t largest) {
    largest = max(largest & 0xffffu, largest >> 16);
#pragma unroll
    for (int lanes = 1; lanes < kLanes; lanes *= 2)
      largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, lanes));
    return HalfUnit(max(largest >> 7, kBinades));
  }
  // A pair of bf16 divided by the unit, as f16.
  __device__ __forceinline__ uint32_t quotients(uint32_t pair) const {
    // f16's exponent stands 3 bits further left.
    return (pair & ~kMagnitudes) | (__vmaxu2(pair & kMagnitudes, zero_) * 8u + minus_8_zeros_);
  }
  __device__ __forceinline__ float value() const { return value_; }

 private:
  static constexpr uint32_t kMagnitudes = 0x7fff7fffu;
  static constexpr uint32_t kBinades = 30;  // of normal f16 values

  __device__ explicit HalfUnit(uint32_t exponent)
      : zero_((exponent - kBinades) << 7 | (exponent - kBinades) << 23),
        minus_8_zeros_(0u - 8u * zero_),
        value_(exponent == 255 ? NAN : __uint_as_float(exponent << 23) * 0x1p-15f) {
    asm("" : "+r"(minus_8_zeros_));  // or the compiler subtracts before it multiplies
  }

  uint32_t zero_;  // the pair of bf16 that becomes 0
  uint32_t minus_8_zeros_;
  float value_;
};
#endif

}  // namespace dsr::cuda
