// Vector access to rows of activations. A kernel is compiled for chunks of 16 bytes and for single
// elements; rows_allow_16 says which a call may use.
#pragma once

#include "common/types.cuh"
#include "tensor/tensor.h"

namespace dsr::cuda {

// What is loaded and stored at once.
template <typename T, int kWidth>
struct alignas(kWidth * sizeof(T)) Packed {
  T v[kWidth];
};

// kWidth values as float32, one load of kWidth * sizeof(T) bytes.
template <int kWidth, typename T>
__device__ __forceinline__ void load_floats(const T* p, float (&out)[kWidth]) {
  const auto c = *reinterpret_cast<const Packed<T, kWidth>*>(p);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) out[i] = to_float(c.v[i]);
}
template <int kWidth, typename T>
__device__ __forceinline__ void store_floats(T* p, const float (&in)[kWidth]) {
  Packed<T, kWidth> c;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) c.v[i] = from_float<T>(in[i]);
  *reinterpret_cast<Packed<T, kWidth>*>(p) = c;
}

// Whether every row (all dimensions but the last) starts at a multiple of 16 bytes and is whole
// chunks of 8 elements long.
inline bool rows_allow_16(const Tensor& t) {
  if (reinterpret_cast<uintptr_t>(t.data) % 16 != 0 || t.shape[t.rank() - 1] % 8 != 0) return false;
  for (int i = 0; i + 1 < t.rank(); ++i)
    if (t.strides[static_cast<size_t>(i)] * size_bytes(t.dtype) % 16 != 0) return false;
  return true;
}

// The sum of one value of every thread, in a fixed order: of a warp's threads, then of the warps'
// sums. The same in all threads.
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(0xffffffffu, v, offset);
  return v;
}
__device__ __forceinline__ float sum_of_warps(const float* sums, int n_warps) {
  float sum = 0;
  for (int w = 0; w < n_warps; ++w) sum += sums[w];
  return sum;
}
// Of the whole block; `shared` holds 32 floats and may not be in use.
__device__ __forceinline__ float block_sum(float v, float* shared) {
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
  __syncthreads();
  return sum_of_warps(shared, static_cast<int>(blockDim.x + 31) / 32);
}

}  // namespace dsr::cuda
