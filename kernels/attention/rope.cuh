// Rotation of one row by the threads of a block or warp. Definition: ops/gqa.h.
#pragma once

#include "common/types.cuh"

namespace dsr::cuda {

struct RopeRows {
  const float* cos;  // [P, half]
  const float* sin;
  int half;
};

// Pairs (x[i], x[i + half]); x in shared memory, thread `i` of `n` takes every n-th pair.
__device__ __forceinline__ void rope_half_split(float* x, const RopeRows& rope, int position, int i,
                                                int n) {
  const int64_t row = static_cast<int64_t>(position) * rope.half;
  for (; i < rope.half; i += n) {
    const float c = rope.cos[row + i], s = rope.sin[row + i];
    const float first = x[i], second = x[i + rope.half];
    x[i] = first * c - second * s;
    x[i + rope.half] = second * c + first * s;
  }
}

}  // namespace dsr::cuda
