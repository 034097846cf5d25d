// Element types on the device and their conversions: the same roundings as tensor/dtype.h.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "base/error.h"
#include "tensor/dtype.h"

namespace dsr::cuda {

using bf16 = __nv_bfloat16;
using f16 = __half;
struct e4m3 {
  uint8_t bits;
};
struct e8m0 {
  uint8_t bits;
};

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(bf16 v) { return __bfloat162float(v); }
__device__ __forceinline__ float to_float(f16 v) { return __half2float(v); }
// Every e4m3 value is a half.
__device__ __forceinline__ float to_float(e4m3 v) {
  return __half2float(__half(__nv_cvt_fp8_to_halfraw(v.bits, __NV_E4M3)));
}
__device__ __forceinline__ float to_float(e8m0 v) {
  return v.bits == 0xff ? __int_as_float(0x7fc00000)
                        : __int_as_float(v.bits == 0 ? 0x00400000 : int{v.bits} << 23);
}

template <typename T>
__device__ __forceinline__ T from_float(float v);
template <>
__device__ __forceinline__ float from_float<float>(float v) {
  return v;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float v) {
  return __float2bfloat16_rn(v);
}
// Nearest even, saturating at +-448; NaN gives 0x7f.
template <>
__device__ __forceinline__ e4m3 from_float<e4m3>(float v) {
  return {static_cast<uint8_t>(__nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3))};
}

// Element `at` of an output that is float32 or bf16.
__device__ __forceinline__ void store_as(void* out, bool f32, int64_t at, float value) {
  if (f32)
    static_cast<float*>(out)[at] = value;
  else
    static_cast<bf16*>(out)[at] = from_float<bf16>(value);
}

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&v);
}
__device__ __forceinline__ float low_bf16(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_bf16(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}

// Calls f(T{}) with the device type that stores a DType of weights or activations.
template <typename F>
void with_float_type(DType type, const F& f) {
  switch (type) {
    case DType::kF32:
      return f(float{});
    case DType::kBF16:
      return f(bf16{});
    case DType::kF16:
      return f(f16{});
    default:
      fail_internal("no floating-point type of activations or weights: ", name(type));
  }
}

}  // namespace dsr::cuda
