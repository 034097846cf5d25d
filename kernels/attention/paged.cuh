// What the attention kernels share: the ragged batch over a paged cache, how a decode row is split
// over blocks, and the merge of the parts.
#pragma once

#include <cmath>

#include "common/launch.h"
#include "common/ptx.cuh"
#include "common/types.cuh"
#include "tensor/kv_format.h"

namespace dsr::cuda {

struct PagedBatch {
  const int32_t* positions;     // [T]
  const int32_t* cu_seqlens_q;  // [S + 1]
  const int32_t* block_table;   // [S, max_blocks]
  int64_t block_table_stride;
};
// Of an attention op's arguments.
template <typename Args>
PagedBatch paged_batch(const Args& a) {
  return {a.positions.template ptr<int32_t>(), a.cu_seqlens_q.template ptr<int32_t>(),
          a.block_table.template ptr<int32_t>(), a.block_table.strides[0]};
}
// Rows of activations by token and head.
struct HeadRows {
  bf16* data;
  int64_t token_stride, head_stride;

  __device__ __forceinline__ bf16* row(int64_t token, int64_t head) const {
    return data + token * token_stride + head * head_stride;
  }
};
inline HeadRows head_rows(const Tensor& t) { return {t.ptr<bf16>(), t.strides[0], t.strides[1]}; }
// What logits are multiplied by for exp2 instead of exp.
template <typename Args>
float scale_log2(const Args& a) {
  return a.softmax_scale * 1.44269504088896341f;
}

// A token that is alone in its sequence's part of the batch (decode) is split over blocks, others
// (prefill) are not. Where the splits lie depends on how many tokens n it sees, on nothing else.
constexpr int kMaxSplits = 128;

constexpr int split_tokens(int n) {
  if (n <= 1024) return 64;
  if (n <= 8192) return 128;
  if (n <= 32768) return 256;
  const int pages = (n + kMaxSplits * 64 - 1) / (kMaxSplits * 64);
  return pages * 64;
}
// The most splits that a row of at most n tokens has.
constexpr int max_splits(int64_t n) {
  if (n > 32768) return kMaxSplits;
  const int tokens = static_cast<int>(n);
  const int splits = (tokens + split_tokens(tokens) - 1) / split_tokens(tokens);
  const int before = tokens > 8192 ? 64 : tokens > 1024 ? 16 : 1;  // of the shorter rows
  return splits > before ? splits : before;
}

// Partial results of split rows: sums of exp2(score - max) v, and per head {max, sum of exp2}.
struct Partials {
  float* sums;    // [S, max_splits, H, width]
  float2* stats;  // [S, max_splits, H]
  int max_splits, H, width;

  __device__ int64_t row(int s, int split, int h) const {
    return (static_cast<int64_t>(s) * max_splits + split) * H + h;
  }
};

// How far the last tokens of a sequence look. The batch is written before the step's first kernel:
// it may be read before wait_for_previous_kernel, and is, since each of these loads depends on the
// one before.
struct QueryRange {
  int first, count;  // tokens of the batch
  int n;             // where there is one token: what it sees
};
__device__ __forceinline__ QueryRange query_range(const PagedBatch& b, int s) {
  const int first = b.cu_seqlens_q[s], count = b.cu_seqlens_q[s + 1] - first;
  return {first, count, count == 1 ? b.positions[first] + 1 : 0};
}

// Taken from the arena for the length of one op; the same in a dry run.
inline Partials take_partials(Exec& exec, int64_t S, int64_t max_blocks, int64_t H, int64_t width) {
  const int n = max_splits(max_blocks * kPageTokens);
  const Tensor sums = exec.scratch().tensor(DType::kF32, {S * n, H, width});
  const Tensor stats = exec.scratch().tensor(DType::kF32, {S * n, H, 2});
  return {sums.ptr<float>(), stats.ptr<float2>(), n, narrow(H), narrow(width)};
}

// The rows that were split into more than one part: parts are merged left to right.
// One block per head and sequence.
constexpr int kMergeThreads = 128;
static_assert(kMergeThreads >= kMaxSplits, "one thread weighs one part");

static __global__ __launch_bounds__(kMergeThreads) void merge_splits_kernel(
    bf16* __restrict__ out, int64_t out_token_stride, int64_t out_head_stride,  // [T, H, width]
    const Partials p, const PagedBatch b) {
  __shared__ float weight[kMaxSplits], sum_weighted[kMaxSplits];
  __shared__ float warp_max[kMergeThreads / 32];
  const int h = blockIdx.x, s = blockIdx.y, i = threadIdx.x;
  const QueryRange range = query_range(b, s);
  const int n_splits =
      range.count == 1 ? (range.n + split_tokens(range.n) - 1) / split_tokens(range.n) : 0;
  wait_for_previous_kernel();
  if (n_splits <= 1) return;

  const float2 stat = i < n_splits ? p.stats[p.row(s, i, h)] : make_float2(-INFINITY, 0);
  float max = stat.x;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, offset));
  if (i % 32 == 0) warp_max[i / 32] = max;
  __syncthreads();
  for (float m : warp_max) max = fmaxf(max, m);
  weight[i] = exp2f(stat.x - max);
  sum_weighted[i] = weight[i] * stat.y;
  __syncthreads();
  float sum = 0;
  for (int k = 0; k < n_splits; ++k) sum += sum_weighted[k];
  const float scale = 1 / sum;
  bf16* to = out + range.first * out_token_stride + h * out_head_stride;
  const int64_t next_split = static_cast<int64_t>(p.H) * p.width;
  // Rows of width 4 k start at multiples of 16 bytes in the arena.
  if (p.width % 4 == 0) {
    for (int c = 4 * i; c < p.width; c += 4 * kMergeThreads) {
      const float* from = p.sums + p.row(s, 0, h) * p.width + c;
      float4 acc = {0, 0, 0, 0};
#pragma unroll 8
      for (int k = 0; k < n_splits; ++k) {
        const float4 v = *reinterpret_cast<const float4*>(from + k * next_split);
        acc.x += weight[k] * v.x;
        acc.y += weight[k] * v.y;
        acc.z += weight[k] * v.z;
        acc.w += weight[k] * v.w;
      }
      const float out4[4] = {acc.x * scale, acc.y * scale, acc.z * scale, acc.w * scale};
#pragma unroll
      for (int k = 0; k < 4; ++k) to[c + k] = from_float<bf16>(out4[k]);
    }
    return;
  }
  for (int c = i; c < p.width; c += kMergeThreads) {
    const float* from = p.sums + p.row(s, 0, h) * p.width + c;
    float acc = 0;
    for (int k = 0; k < n_splits; ++k) acc += weight[k] * from[k * next_split];
    to[c] = from_float<bf16>(acc * scale);
  }
}

inline void merge_splits(Exec& exec, const char* op, const Tensor& out, const Partials& p,
                         const PagedBatch& b, int64_t S) {
  if (p.max_splits == 1) return;
  launch(exec, op,
         {.grid = dim3(static_cast<unsigned>(p.H), static_cast<unsigned>(S)),
          .threads = kMergeThreads},
         merge_splits_kernel, out.ptr<bf16>(), out.strides[0], out.strides[1], p, b);
}

}  // namespace dsr::cuda
