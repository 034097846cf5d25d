// Attention for any head size and every type of cache: plain float32 loops. What the tiled kernels
// do not take runs here.
//
// Mapping   grid (splits or rows, sequences, heads), one head of one token a block. Per tile of
//           tokens: each warp scores every fourth one, the block agrees on the maximum, each thread
//           adds up its columns of the values.
// Needs     values of at most kMaxColumns.
// Traffic   every key and value once per head, mostly from L2.
#pragma once

#include "attention/paged.cuh"

namespace dsr::cuda {

constexpr int kPlainThreads = 128;
constexpr int kPlainWarps = kPlainThreads / 32;
constexpr int kPlainTile = 64;  // tokens; one page
constexpr int kColumnsPerThread = 8;
constexpr int kMaxColumns = kPlainThreads * kColumnsPerThread;
constexpr int kMaxKeyWidth = 2048;

struct PlainParams {
  HeadRows out, q;
  const std::byte* pages;
  int64_t page_bytes;
  PagedBatch batch;
  Partials partials;
  int heads_per_kv_head;
  int key_width, value_width;
  float scale_log2;
};

// `Cache` reads one cached token: key(i) and value(i) of a Cache::Row, made from its page, KV head
// and place in the page; and turns the query: rotate(q, position), by all threads.
template <typename Cache>
__device__ void attend_plainly(const PlainParams& p, const Cache& cache, int sequence, int t, int h,
                               int begin, int end, int split) {
  __shared__ float q[kMaxKeyWidth];
  __shared__ float scores[kPlainTile];
  __syncthreads();  // the rows before are done with both
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bf16* query = p.q.row(t, h);
  for (int i = threadIdx.x; i < p.key_width; i += kPlainThreads) q[i] = to_float(query[i]);
  __syncthreads();
  cache.rotate(q, p.batch.positions[t]);
  __syncthreads();

  const int32_t* table = p.batch.block_table + sequence * p.batch.block_table_stride;
  const int kv_head = h / p.heads_per_kv_head;
  float acc[kColumnsPerThread] = {};
  float max = -INFINITY, sum = 0;
  for (int base = begin; base < end; base += kPlainTile) {
    const std::byte* page = p.pages + table[base / kPlainTile] * p.page_bytes;
    const int n = min(kPlainTile, end - base);
    for (int r = warp; r < n; r += kPlainWarps) {
      const typename Cache::Row row = cache.row(page, kv_head, r);
      float dot = 0;
      for (int i = lane; i < p.key_width; i += 32) dot += q[i] * row.key(i);
#pragma unroll
      for (int offset = 16; offset > 0; offset /= 2)
        dot += __shfl_xor_sync(0xffffffffu, dot, offset);
      if (lane == 0) scores[r] = dot * p.scale_log2;
    }
    __syncthreads();
    float new_max = max;
    for (int r = 0; r < n; ++r) new_max = fmaxf(new_max, scores[r]);
    const float rescale = exp2f(max - new_max);
    max = new_max;
    sum *= rescale;
#pragma unroll
    for (int c = 0; c < kColumnsPerThread; ++c) acc[c] *= rescale;
    for (int r = 0; r < n; ++r) {
      const typename Cache::Row row = cache.row(page, kv_head, r);
      const float weight = exp2f(scores[r] - max);
      sum += weight;
#pragma unroll
      for (int c = 0; c < kColumnsPerThread; ++c) {
        const int column = threadIdx.x + c * kPlainThreads;
        if (column < p.value_width) acc[c] += weight * row.value(column);
      }
    }
    __syncthreads();  // the scores are used up
  }

  bf16* to = p.out.row(t, h);
  const int64_t part = split < 0 ? 0 : p.partials.row(sequence, split, h);
#pragma unroll
  for (int c = 0; c < kColumnsPerThread; ++c) {
    const int column = threadIdx.x + c * kPlainThreads;
    if (column >= p.value_width) break;
    if (split < 0)
      to[column] = from_float<bf16>(acc[c] / sum);
    else
      p.partials.sums[part * p.value_width + column] = acc[c];
  }
  if (split >= 0 && threadIdx.x == 0) p.partials.stats[part] = make_float2(max, sum);
}

template <typename Cache>
__global__ __launch_bounds__(kPlainThreads) void plain_attention_kernel(const PlainParams p,
                                                                        const Cache cache) {
  const int s = blockIdx.y, h = blockIdx.z;
  const QueryRange range = query_range(p.batch, s);
  const int first = range.first, n_queries = range.count;
  wait_for_previous_kernel();
  if (n_queries == 1) {
    const int n = range.n, width = split_tokens(n);
    const int begin = static_cast<int>(blockIdx.x) * width;
    if (begin >= n) return;
    attend_plainly(p, cache, s, first, h, begin, min(n, begin + width),
                   n > width ? static_cast<int>(blockIdx.x) : -1);
    return;
  }
  for (int i = blockIdx.x; i < n_queries; i += gridDim.x)
    attend_plainly(p, cache, s, first + i, h, 0, p.batch.positions[first + i] + 1, -1);
}

template <typename Cache>
void plain_attention(Exec& exec, const char* op, const PlainParams& p, const Cache& cache,
                     int64_t T, int64_t S, int64_t H) {
  if (p.value_width > kMaxColumns || p.key_width > kMaxKeyWidth)
    fail(ErrorKind::kDevice, op, ": keys of ", p.key_width, " and values of ", p.value_width,
         " on CUDA, at most ", kMaxKeyWidth, " and ", kMaxColumns);
  const int64_t blocks = std::max<int64_t>(
      p.partials.max_splits, std::min<int64_t>(T > S ? T : 0, 4 * exec.cuda().n_sms()));
  launch(exec, op,
         {.grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(S),
                       static_cast<unsigned>(H)),
          .threads = kPlainThreads},
         plain_attention_kernel<Cache>, p, cache);
}

}  // namespace dsr::cuda
