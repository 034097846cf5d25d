// Vector access to rows of activations. A kernel is compiled for chunks of 16 bytes and for single
// elements; rows_allow_16 says which a call may use.
#pragma once

#include "common/types.cuh"
#include "tensor/tensor.h"

namespace dsr::cuda {

// kWidth values as float32, one load of kWidth * sizeof(T) bytes.
template <int kWidth, typename T>
__device__ __forceinline__ void load_floats(const T* p, float (&out)[kWidth]) {
  struct alignas(kWidth * sizeof(T)) Chunk {
    T v[kWidth];
  };
  const Chunk c = *reinterpret_cast<const Chunk*>(p);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) out[i] = to_float(c.v[i]);
}
template <int kWidth, typename T>
__device__ __forceinline__ void store_floats(T* p, const float (&in)[kWidth]) {
  struct alignas(kWidth * sizeof(T)) Chunk {
    T v[kWidth];
  };
  Chunk c;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) c.v[i] = from_float<T>(in[i]);
  *reinterpret_cast<Chunk*>(p) = c;
}

// Whether every row (all dimensions but the last) starts at a multiple of 16 bytes and is whole
// chunks of 8 elements long.
inline bool rows_allow_16(const Tensor& t) {
  if (reinterpret_cast<uintptr_t>(t.data) % 16 != 0 || t.shape[t.rank() - 1] % 8 != 0) return false;
  for (int i = 0; i + 1 < t.rank(); ++i)
    if (t.strides[static_cast<size_t>(i)] * size_bytes(t.dtype) % 16 != 0) return false;
  return true;
}

// The sum of one value of every thread of the block, in a fixed order; `shared` holds 32 floats and
// may not be in use. The same in all threads.
__device__ __forceinline__ float block_sum(float v, float* shared) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(0xffffffffu, v, offset);
  const int warp = threadIdx.x / 32, n_warps = (blockDim.x + 31) / 32;
  if (threadIdx.x % 32 == 0) shared[warp] = v;
  __syncthreads();
  float sum = 0;
  for (int w = 0; w < n_warps; ++w) sum += shared[w];
  return sum;
}

}  // namespace dsr::cuda
