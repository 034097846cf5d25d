// Attention of tokens that are alone in their sequence's part of the batch (decode), where every
// head has keys of its own, 128 wide, as bf16 or fp8: nothing is shared, so there is nothing for
// the tensor cores, and the time is that of reading the cache.
//
// Mapping   grid (splits, sequences, heads), 4 warps. A warp takes 16 tokens of 64, two to a load:
//           half a warp reads a key. Keys and values of the next 16 are in registers
//           before those of these are used; all of a block's first ones that were in the cache
//           before the step are on their way before the wait. The parts of the four warps are
//           merged at the end, left to right.
// Rounding  the rotated query to bf16; the rest in fp32.
// Traffic   every key and value once.
#pragma once

#include <type_traits>

#include "attention/tiled_shape.cuh"
#include "common/e4m3.cuh"

namespace dsr::cuda {

constexpr int kMhaWidth = 128, kMhaWarps = 4, kMhaThreads = 32 * kMhaWarps;
constexpr int kMhaLoads = 8, kMhaTokens = 2 * kMhaLoads;  // per lane; per warp at a time
static_assert(kMhaThreads == kMhaWidth, "a thread has a column in the end");
static_assert(kMhaWarps * kMhaTokens == kPageTokens, "a block's tokens lie in one page");

// Of the warp's 16 tokens a lane's i-th is 2 i + lane / 16; its columns begin here.
__device__ __forceinline__ int mha_token(int i) {
  return 2 * i + static_cast<int>(threadIdx.x) % 32 / 16;
}
__device__ __forceinline__ int mha_column() { return static_cast<int>(threadIdx.x) % 16 * 8; }

__device__ __forceinline__ void floats_of(const uint4& v, float (&out)[8]) {
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    out[2 * k] = low_bf16(words[k]);
    out[2 * k + 1] = high_bf16(words[k]);
  }
}
__device__ __forceinline__ void floats_of(const uint2& v, float (&out)[8]) {
  const uint32_t words[2] = {v.x, v.y};
  floats_from_e4m3(words, out);
}

// A lane's 8 columns of 8 tokens; zeros past the end.
template <bool kFp8>
struct MhaRows {
  using Piece = std::conditional_t<kFp8, uint2, uint4>;
  static constexpr int kElementBytes = kFp8 ? 1 : 2;
  Piece keys[kMhaLoads], values[kMhaLoads];
  float key_scales[kFp8 ? kMhaLoads : 1], value_scales[kFp8 ? kMhaLoads : 1];

  // Row `row` of the half page at `half`, and of the other half. kOnce: nobody writes it meanwhile.
  template <bool kOnce>
  __device__ __forceinline__ void load(int i, const TiledParams& p, const std::byte* half,
                                       int row) {
    const std::byte* from = half + (row * kMhaWidth + mha_column()) * kElementBytes;
    const std::byte* other = from + p.page_bytes / 2;
    if constexpr (kFp8) {
      // By way of the L2: the scales around a row's are there before the row is.
      const std::byte* scale = half + p.scales_at + row * 4;
      keys[i] = __ldcg(reinterpret_cast<const uint2*>(from));
      values[i] = __ldcg(reinterpret_cast<const uint2*>(other));
      key_scales[i] = __ldcg(reinterpret_cast<const float*>(scale));
      value_scales[i] = __ldcg(reinterpret_cast<const float*>(scale + p.page_bytes / 2));
    } else if constexpr (kOnce) {
      keys[i] = load_once(from);
      values[i] = load_once(other);
    } else {
      keys[i] = *reinterpret_cast<const uint4*>(from);
      values[i] = *reinterpret_cast<const uint4*>(other);
    }
  }
  __device__ __forceinline__ void clear(int i) {
    keys[i] = values[i] = Piece{};
    if constexpr (kFp8) key_scales[i] = value_scales[i] = 0;
  }
};

template <bool kFp8>
__global__ __launch_bounds__(kMhaThreads) void mha_decode_kernel(
    const __grid_constant__ TiledParams p) {
  using Rows = MhaRows<kFp8>;
  __shared__ __align__(16) float parts[kMhaWarps][kMhaWidth];
  __shared__ float2 stats[kMhaWarps];
  const int s = blockIdx.y, head = blockIdx.z, split = blockIdx.x;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const QueryRange range = query_range(p.batch, s);
  const int n = range.n, width = split_tokens(n), begin = split * width;
  if (range.count != 1) {
    wait_for_previous_kernel();  // so that the kernel ends after the one before in any case
    return;
  }
  if (begin >= n) return;  // block 0 of this row waits
  const int end = min(n, begin + width), newest = n - 1;
  const int32_t* table = p.batch.block_table + s * p.batch.block_table_stride;
  constexpr int kPage = static_cast<int>(kPageTokens);
  const auto page_of = [&](int token) { return p.pages + table[token / kPage] * p.page_bytes; };
  const auto row_of = [&](int token) { return head * kPage + token % kPage; };
  // What was in the cache before this step.
  const auto load = [&](int first, Rows& rows) {
    if (first >= end) return;
    const std::byte* page = page_of(first);
#pragma unroll
    for (int i = 0; i < kMhaLoads; ++i) {
      const int token = first + mha_token(i);
      if (token < end && token != newest)
        rows.template load<true>(i, p, page, row_of(token));
      else
        rows.clear(i);
    }
  };

  // And what the step has added.
  const auto load_newest = [&](int first, Rows& rows) {
    if (newest < first || newest >= min(end, first + kMhaTokens)) return;
    const std::byte* page = page_of(first);
#pragma unroll
    for (int i = 0; i < kMhaLoads; ++i)
      if (first + mha_token(i) == newest) rows.template load<false>(i, p, page, row_of(newest));
  };

  int first = begin + warp * kMhaTokens;
  Rows rows;
  load(first, rows);
  wait_for_previous_kernel();
  load_newest(first, rows);

  // This lane's columns of the query, turned to its position: column c goes with c + 64.
  float q[8];
  {
    const int column = mha_column(), in_half = column % (kMhaWidth / 2);
    const bf16* row = p.q.row(range.first, head);
    float other[8], c[8], sine[8];
    floats_of(*reinterpret_cast<const uint4*>(row + column), q);
    floats_of(*reinterpret_cast<const uint4*>(row + (column ^ (kMhaWidth / 2))), other);
    const int64_t at = int64_t{newest} * (kMhaWidth / 2) + in_half;
#pragma unroll
    for (int k = 0; k < 8; k += 4) {
      *reinterpret_cast<float4*>(&c[k]) = *reinterpret_cast<const float4*>(p.cos + at + k);
      *reinterpret_cast<float4*>(&sine[k]) = *reinterpret_cast<const float4*>(p.sin + at + k);
    }
    const float sign = column < kMhaWidth / 2 ? -1.0f : 1.0f;
#pragma unroll
    for (int k = 0; k < 8; ++k)
      q[k] = to_float(from_float<bf16>(q[k] * c[k] + other[k] * (sign * sine[k])));
  }

  float o[8] = {}, max = -INFINITY, sum = 0;
  for (; first < end; first += kMhaWarps * kMhaTokens) {
    Rows next;
    load(first + kMhaWarps * kMhaTokens, next);
    load_newest(first + kMhaWarps * kMhaTokens, next);
    float score[kMhaLoads];
    float new_max = max;
#pragma unroll
    for (int i = 0; i < kMhaLoads; ++i) {
      float key[8];
      floats_of(rows.keys[i], key);
      float dot = 0;
#pragma unroll
      for (int k = 0; k < 8; ++k) dot = fmaf(key[k], q[k], dot);
#pragma unroll
      for (int offset = 8; offset > 0; offset /= 2)
        dot += __shfl_xor_sync(0xffffffffu, dot, offset);
      if constexpr (kFp8) dot *= rows.key_scales[i];
      score[i] = first + mha_token(i) < end ? dot * p.scale_log2 : -INFINITY;
      new_max = fmaxf(new_max, score[i]);
    }
    new_max = fmaxf(new_max, __shfl_xor_sync(0xffffffffu, new_max, 16));
    const float rescale = exp2f(max - new_max);
    max = new_max;
    sum *= rescale;
#pragma unroll
    for (int k = 0; k < 8; ++k) o[k] *= rescale;
#pragma unroll
    for (int i = 0; i < kMhaLoads; ++i) {
      float weight = exp2f(score[i] - max);
      sum += weight;
      if constexpr (kFp8) weight *= rows.value_scales[i];
      float value[8];
      floats_of(rows.values[i], value);
#pragma unroll
      for (int k = 0; k < 8; ++k) o[k] = fmaf(weight, value[k], o[k]);
    }
    rows = next;
  }

  sum += __shfl_xor_sync(0xffffffffu, sum, 16);
#pragma unroll
  for (int k = 0; k < 8; ++k) o[k] += __shfl_xor_sync(0xffffffffu, o[k], 16);
  if (lane < 16) {
#pragma unroll
    for (int k = 0; k < 8; k += 4)
      *reinterpret_cast<float4*>(&parts[warp][lane * 8 + k]) =
          make_float4(o[k], o[k + 1], o[k + 2], o[k + 3]);
  }
  if (lane == 0) stats[warp] = make_float2(max, sum);
  __syncthreads();
  float all_max = stats[0].x;  // its warp has a token
#pragma unroll
  for (int w = 1; w < kMhaWarps; ++w) all_max = fmaxf(all_max, stats[w].x);
  float total = 0, all_sum = 0;
  const int column = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int w = 0; w < kMhaWarps; ++w) {
    const float weight = exp2f(stats[w].x - all_max);
    total = fmaf(weight, parts[w][column], total);
    all_sum = fmaf(weight, stats[w].y, all_sum);
  }
  if (n <= width) {
    p.out.row(range.first, head)[column] = from_float<bf16>(total / all_sum);
    return;
  }
  const int64_t row = p.partials.row(s, split, head);
  p.partials.sums[row * kMhaWidth + column] = total;
  if (column == 0) p.partials.stats[row] = make_float2(all_max, all_sum);
}

template <bool kFp8>
void mha_decode(Exec& exec, const char* op, const TiledParams& p, int64_t S, int64_t H) {
  launch(exec, op,
         {.grid = dim3(static_cast<unsigned>(p.partials.max_splits), static_cast<unsigned>(S),
                       static_cast<unsigned>(H)),
          .threads = kMhaThreads},
         mha_decode_kernel<kFp8>, p);
}

}  // namespace dsr::cuda
