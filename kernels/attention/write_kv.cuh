// Storing values in the KV cache, by one warp. The formats and the quantiser: tensor/kv_format.h,
// tensor/quant.h, of which this is the device's copy, bit for bit.
#pragma once

#include "common/types.cuh"
#include "tensor/kv_format.h"

namespace dsr::cuda {

// n values of shared memory to f32 or bf16 at `to`; lane `lane` of the warp.
__device__ __forceinline__ void store_values(const float* x, int n, CacheType type, std::byte* to,
                                             int lane) {
  for (int i = lane; i < n; i += 32) {
    if (type == CacheType::kF32)
      reinterpret_cast<float*>(to)[i] = x[i];
    else
      reinterpret_cast<bf16*>(to)[i] = from_float<bf16>(x[i]);
  }
}

// n values as e4m3 codes with one scale.
__device__ __forceinline__ void store_quantized(const float* x, int n, std::byte* codes,
                                                float* scale_to, int lane) {
  float amax = 0;
  for (int i = lane; i < n; i += 32) amax = fmaxf(amax, fabsf(x[i]));
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, offset));
  const float scale = amax == 0 ? 1.0f : fmaxf(amax / 448.0f, 0x1p-120f);
  for (int i = lane; i < n; i += 32) codes[i] = std::byte{from_float<e4m3>(x[i] / scale).bits};
  if (lane == 0) *scale_to = scale;
}

}  // namespace dsr::cuda
