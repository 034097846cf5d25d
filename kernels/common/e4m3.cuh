// Codes of e4m3 turned into bf16 and float32, many at a time. On every architecture.
#pragma once

#include "common/types.cuh"

namespace dsr::cuda {

// Four codes to two pairs of bf16, exactly. The seven bits below the sign, moved into bf16's
// exponent and mantissa, are the value times 2^-120, subnormals included; the product with 2^120
// is exact. The NaN codes (0x7f, 0xff) read as +-480: whoever loads weights has to look for them.
__device__ __forceinline__ uint32_t bf16_from_shifted(uint32_t codes) {  // in the high bytes
  constexpr uint32_t kTwoTo120 = 0x7b807b80u, kMinusZero = 0x80008000u;
  const uint32_t small = (codes & 0x80008000u) | ((codes >> 4) & 0x07f007f0u);
  uint32_t out;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(small), "r"(kTwoTo120), "r"(kMinusZero));
  return out;
}
__device__ __forceinline__ void bf16_from_e4m3(uint32_t codes, uint32_t& low, uint32_t& high) {
  low = bf16_from_shifted(__byte_perm(codes, 0, 0x1404));
  high = bf16_from_shifted(__byte_perm(codes, 0, 0x3424));
}

// floats_from_e4m3: codes of a cache's row, NaN included.
#if __CUDA_ARCH__ >= 890
// Four codes, the first in the lowest byte, as two pairs of f16. NaN codes become NaN.
__device__ __forceinline__ void f16_from_e4m3(uint32_t codes, uint32_t& low, uint32_t& high) {
  asm("{\n"
      ".reg .b16 low, high;\n"
      "mov.b32 {low, high}, %2;\n"
      "cvt.rn.f16x2.e4m3x2 %0, low;\n"
      "cvt.rn.f16x2.e4m3x2 %1, high;\n"
      "}"
      : "=r"(low), "=r"(high)
      : "r"(codes));
}
template <int kWords>
__device__ __forceinline__ void floats_from_e4m3(const uint32_t (&codes)[kWords],
                                                 float (&out)[4 * kWords]) {
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    uint32_t pairs[2];
    f16_from_e4m3(codes[i], pairs[0], pairs[1]);
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const float2 v = __half22float2(*reinterpret_cast<const __half2*>(&pairs[k]));
      out[4 * i + 2 * k] = v.x, out[4 * i + 2 * k + 1] = v.y;
    }
  }
}
#else
template <int kWords>
__device__ __forceinline__ void floats_from_e4m3(const uint32_t (&codes)[kWords],
                                                 float (&out)[4 * kWords]) {
  bool nan = false;
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    uint32_t low, high;
    bf16_from_e4m3(codes[i], low, high);
    out[4 * i] = low_bf16(low), out[4 * i + 1] = high_bf16(low);
    out[4 * i + 2] = low_bf16(high), out[4 * i + 3] = high_bf16(high);
    nan |= (((codes[i] & 0x7f7f7f7fu) + 0x01010101u) & 0x80808080u) != 0;
  }
  if (!nan) return;
#pragma unroll
  for (int i = 0; i < 4 * kWords; ++i)
    if ((codes[i / 4] >> (i % 4 * 8) & 0x7f) == 0x7f) out[i] = NAN;
}
#endif

// 16 codes times a scale, rounded to bf16.
__device__ __forceinline__ void bf16_from_e4m3(const uint4& codes, float scale, uint4 (&out)[2]) {
  const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
  float v[16];
  floats_from_e4m3(words, v);
  uint32_t pairs[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) pairs[i] = pack_bf16(v[2 * i] * scale, v[2 * i + 1] * scale);
  out[0] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
  out[1] = make_uint4(pairs[4], pairs[5], pairs[6], pairs[7]);
}

}  // namespace dsr::cuda
