// What the kernels of sample share. Definition and stages: ops/sample.h.
#pragma once

#include "base/rng.h"
#include "common/launch.h"
#include "common/ptx.cuh"
#include "common/types.cuh"
#include "ops/sample.h"

namespace dsr::cuda {

struct Best {
  float value;
  int id;  // -1: none
};
__device__ __forceinline__ Best better(Best a, Best b) {
  if (a.id < 0) return b;
  if (b.id < 0) return a;
  return b.value > a.value || (b.value == a.value && b.id < a.id) ? b : a;
}

// What scan knows of a part of a row.
struct __align__(16) Part {
  float value;  // logit / temperature; with Gumbel's number where there are no cuts
  int id;       // whose it is; -1: no id of the part may be drawn
  int finite;   // whether all logits as the model gave them are
};

struct SampleParams {
  int32_t* token_ids;   // [R]
  int32_t* non_finite;  // [R]
  const float* logits;  // [R, V]
  int64_t logits_stride;
  const SampleRow* rows;
  const uint32_t* allowed;
  const int32_t* history;
  const int32_t* bias_ids;
  const float* bias_values;
  Part* parts;    // [R, n_parts]
  float* edited;  // [R, V]: logits after penalties and biases, where both edits and cuts are
  // Where the blocks that choose for one row meet.
  uint64_t* sums;   // [R, 2, blocks, kBins]: weight of every bin of a block's ids, for both cuts
  int32_t* lists;   // [R, 2, V]: ids of a bin, and of the draw; a block's from its first id
  int32_t* listed;  // [R, blocks]: how many
  Best* bests;      // [R, blocks]
  int V, n_parts;
};

__device__ __forceinline__ bool has_edits(const SampleRow& row) {
  return row.history_end > row.history_begin || row.bias_end > row.bias_begin;
}
__device__ __forceinline__ bool has_cuts(const SampleRow& row, int V) {
  return row.temperature > 0 &&
         ((row.top_k > 0 && row.top_k < V) || row.top_p < 1 || row.min_p > 0);
}

__device__ __forceinline__ Best warp_best(Best b) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    b = better(b, {__shfl_xor_sync(0xffffffffu, b.value, offset),
                   __shfl_xor_sync(0xffffffffu, b.id, offset)});
  return b;
}
// The same in all threads.
template <int kWarps>
__device__ Best block_best(Best b, Best (&of_warps)[kWarps]) {
  static_assert(kWarps <= 32, "a lane has a warp's best");
  const int lane = static_cast<int>(threadIdx.x) % 32;
  b = warp_best(b);
  __syncthreads();
  if (lane == 0) of_warps[threadIdx.x / 32] = b;
  __syncthreads();
  return warp_best(lane < kWarps ? of_warps[lane] : Best{0, -1});
}

constexpr float kLargestGumbel = 16.7f;  // -log(-log(1 - 2^-24)) = 16.64
// Grows with the value; 0 and -0 are the same.
__device__ __forceinline__ uint32_t ordered(float v) {
  const uint32_t bits = __float_as_uint(v + 0.0f);
  return bits ^ ((bits >> 31) != 0 ? 0xffffffffu : 0x80000000u);
}

__device__ __forceinline__ float gumbel(const SampleRow& row, int id) {
  const PhiloxBlock block = philox4x32(
      row.seed, {static_cast<uint32_t>(row.position), static_cast<uint32_t>(row.position >> 32),
                 static_cast<uint32_t>(row.sample_index), static_cast<uint32_t>(id)});
  return -logf(-logf(uniform_open(block[0])));
}

// The best of this thread's ids.
__device__ __forceinline__ void keep_best(Best& best, float value, int id) {
  if (value > best.value || best.id < 0) best = {value, id};  // ids come in ascending order
}

}  // namespace dsr::cuda
