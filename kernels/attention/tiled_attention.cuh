// Attention with the tensor cores over a paged bf16 cache, for the head sizes that released models
// have. The rows of a block are the heads that share keys: of one token where they are 16 or more,
// of several consecutive tokens where they are fewer.
//
// Mapping   grid (splits or row groups, sequences, head groups), 8 warps. A tile of kTile tokens is
//           copied to shared memory kStages - 1 tiles ahead. Scores: each warp takes 16 tokens and
//           a part of the width; the parts meet in shared memory. Softmax: two rows a warp. Values:
//           each warp takes its share of the columns.
// Rounding  the rotated query (GQA) and p to bf16; sums in fp32. The sum of p is that of the
//           rounded ones.
// Traffic   decode: every key and value once per 16 heads, and 2 * 4 bytes * width per head and
//           split for the parts.
#pragma once

#include "attention/paged.cuh"

namespace dsr::cuda {

// MLA: one row per token holds the key [latent | rope]; its first part is the value.
struct MlaShape {
  static constexpr int kKeyWidth = 576, kValueWidth = 512, kTile = 32, kStages = 3;
  static constexpr bool kValuesInKeys = true, kRotateQuery = false;
};
struct GqaShape {
  static constexpr int kKeyWidth = 128, kValueWidth = 128, kTile = 64, kStages = 2;
  static constexpr bool kValuesInKeys = false, kRotateQuery = true;
};

struct TiledParams {
  bf16* out;  // [T, H, kValueWidth]
  int64_t out_token_stride, out_head_stride;
  const bf16* q;  // [T, H, kKeyWidth]
  int64_t q_token_stride, q_head_stride;
  const float* cos;  // [P, kKeyWidth / 2], where the query is rotated here
  const float* sin;
  const std::byte* pages;
  int64_t page_bytes;
  PagedBatch batch;
  Partials partials;
  int heads_per_kv_head;
  float scale_log2;  // softmax_scale * log2(e)
};

constexpr int kTiledWarps = 8;
constexpr int kTiledThreads = 32 * kTiledWarps;
constexpr int kRows = 16;  // of a block: the M of mma.m16n8k16

template <typename Shape>
struct Tiled {
  // Rows padded by 16 bytes: the eight rows that ldmatrix reads at once lie in different banks.
  static constexpr int kKeyStride = Shape::kKeyWidth + 8;
  static constexpr int kKeyElements = Shape::kTile * kKeyStride;
  static constexpr int kValueElements = Shape::kValuesInKeys ? 0 : kKeyElements;
  static constexpr int kStageElements = kKeyElements + kValueElements;
  static constexpr int kScoreStride = Shape::kTile + 8;  // floats; no two rows in one bank
  static constexpr int kTokenTiles = Shape::kTile / 8;
  static constexpr int kScoreTokens = 16;  // of a warp, in the scores
  static constexpr int kScoreGroups = Shape::kTile / kScoreTokens;
  static constexpr int kKeyParts = kTiledWarps / kScoreGroups;  // of the width, in the scores
  static constexpr int kKeySteps = Shape::kKeyWidth / 16 / kKeyParts;  // of k16, per warp
  static constexpr int kValueSteps = Shape::kTile / 16;
  static constexpr int kColumns = Shape::kValueWidth / kTiledWarps;  // per warp
  static_assert(kScoreGroups * kKeyParts == kTiledWarps, "every warp has a part of the scores");
  static_assert(Shape::kKeyWidth % (16 * kKeyParts) == 0, "a part is whole steps of k16");
  static_assert(kColumns % 16 == 0, "ldmatrix.x4 takes two n8 tiles");
  static_assert(kPageTokens % Shape::kTile == 0, "a tile lies in one page");
  static_assert(Shape::kTile >= kRows, "a stage holds the query");
};

// The rows of one block and the tokens they look at.
struct TiledWork {
  int first_token, n_tokens;  // of the batch
  int head, n_heads;          // the first of them
  int kv_head;
  int begin, end;  // cached tokens
  int sequence;
  int split;  // -1: the result is final
  // The token that this step adds to the cache, in decode: all before it were there already, so
  // that they may be fetched while the kernels before still run. -1: nothing may.
  int newest;
};

// Tokens base .. base + kTile into a stage, zeros past the end; `except` is left out.
template <typename Shape>
__device__ __forceinline__ void copy_tile(const TiledParams& p, const TiledWork& w, int base,
                                          bf16* stage, int except = -1) {
  using T = Tiled<Shape>;
  constexpr int kChunks = Shape::kKeyWidth / 8;  // of 16 bytes in a row
  const int32_t* table = p.batch.block_table + w.sequence * p.batch.block_table_stride;
  const int in_page = base % static_cast<int>(kPageTokens);
  const auto* page = reinterpret_cast<const bf16*>(
      p.pages + table[base / static_cast<int>(kPageTokens)] * p.page_bytes);
  const int first_row =
      Shape::kValuesInKeys ? in_page : w.kv_head * static_cast<int>(kPageTokens) + in_page;
  const bf16* keys = page + first_row * Shape::kKeyWidth;
  const bf16* values = keys + p.page_bytes / 4;  // half a page on, in elements
#pragma unroll 3
  for (int c = threadIdx.x; c < Shape::kTile * kChunks; c += kTiledThreads) {
    const int r = c / kChunks, column = c % kChunks * 8;
    const bool valid = base + r < w.end;
    if (base + r == except) continue;
    copy_async_16(stage + r * T::kKeyStride + column, keys + r * Shape::kKeyWidth + column, valid);
    if constexpr (!Shape::kValuesInKeys)
      copy_async_16(stage + T::kKeyElements + r * T::kKeyStride + column,
                    values + r * Shape::kKeyWidth + column, valid);
  }
}

// The one token that copy_tile left out.
template <typename Shape>
__device__ __forceinline__ void copy_token(const TiledParams& p, const TiledWork& w, int token,
                                           int base, bf16* stage) {
  using T = Tiled<Shape>;
  constexpr int kChunks = Shape::kKeyWidth / 8;
  const int32_t* table = p.batch.block_table + w.sequence * p.batch.block_table_stride;
  const int in_page = token % static_cast<int>(kPageTokens);
  const auto* page = reinterpret_cast<const bf16*>(
      p.pages + table[token / static_cast<int>(kPageTokens)] * p.page_bytes);
  const int row =
      Shape::kValuesInKeys ? in_page : w.kv_head * static_cast<int>(kPageTokens) + in_page;
  const bf16* key = page + row * Shape::kKeyWidth;
  bf16* to = stage + (token - base) * T::kKeyStride;
  for (int c = threadIdx.x; c < kChunks; c += kTiledThreads) {
    copy_async_16(to + c * 8, key + c * 8);
    if constexpr (!Shape::kValuesInKeys)
      copy_async_16(to + T::kKeyElements + c * 8, key + p.page_bytes / 4 + c * 8);
  }
}

// The rows of the query, zeros where there are fewer than kRows.
template <typename Shape>
__device__ __forceinline__ void copy_query(const TiledParams& p, const TiledWork& w, bf16* to) {
  constexpr int kChunks = Shape::kKeyWidth / 8;
  const int heads_in_row = min(p.heads_per_kv_head, kRows);
  for (int c = threadIdx.x; c < kRows * kChunks; c += kTiledThreads) {
    const int r = c / kChunks, column = c % kChunks * 8;
    const int token = r / heads_in_row, head = r % heads_in_row;
    const bool valid = token < w.n_tokens && head < w.n_heads;
    const bf16* from = valid ? p.q + (w.first_token + token) * p.q_token_stride +
                                   (w.head + head) * p.q_head_stride + column
                             : p.q;
    copy_async_16(to + r * Tiled<Shape>::kKeyStride + column, from, valid);
  }
}

// Elements (column, column + 1) of a row, turned to its position, as two bf16.
template <typename Shape>
__device__ __forceinline__ uint32_t rotated_pair(const TiledParams& p, const bf16* row,
                                                 int position, int column) {
  constexpr int kHalf = Shape::kKeyWidth / 2;
  const bool first = column < kHalf;
  const uint32_t pair = *reinterpret_cast<const uint32_t*>(row + column);
  const uint32_t other =
      *reinterpret_cast<const uint32_t*>(row + (first ? column + kHalf : column - kHalf));
  const int64_t at = static_cast<int64_t>(position) * kHalf + column % kHalf;
  const float2 c = *reinterpret_cast<const float2*>(p.cos + at);
  float2 s = *reinterpret_cast<const float2*>(p.sin + at);
  if (first) s = make_float2(-s.x, -s.y);
  return pack_bf16(low_bf16(pair) * c.x + low_bf16(other) * s.x,
                   high_bf16(pair) * c.y + high_bf16(other) * s.y);
}

// One row of a block: its token, head and how far it looks.
struct TiledRow {
  int token, head, position, end;
  bool valid;

  __device__ __forceinline__ TiledRow(const TiledParams& p, const TiledWork& w, int r) {
    const int heads_in_row = min(p.heads_per_kv_head, kRows);
    const int t = r / heads_in_row, h = r % heads_in_row;
    valid = t < w.n_tokens && h < w.n_heads;
    token = w.first_token + t;
    head = w.head + h;
    position = valid ? p.batch.positions[token] : 0;
    end = valid ? min(position + 1, w.end) : w.end;
  }
};

// What the warps of a block tell each other about a tile, and in the end about all of them.
template <typename Shape>
struct TiledExchange {
  float scores[Tiled<Shape>::kKeyParts][kRows][Tiled<Shape>::kScoreStride];
  alignas(16) bf16 weights[kRows][Shape::kTile + 8];  // exp2(score - max), and zeros past the end
  float rescale[kRows], max[kRows], sum[kRows];
};
template <typename Shape>
struct TiledMemory {
  alignas(16) bf16 stages[Shape::kStages][Tiled<Shape>::kStageElements];  // keys, then values
  TiledExchange<Shape> exchange;
};

// This warp's part of the width, from its first k16 step.
template <typename Shape>
__device__ __forceinline__ int first_key_step() {
  using T = Tiled<Shape>;
  return static_cast<int>(threadIdx.x) / 32 / T::kScoreGroups * T::kKeySteps;
}

// scores[kRows, kTile] of a tile: this warp's 16 tokens over its part of the width, in two chains
// for each 8 of them.
template <typename Shape>
__device__ __forceinline__ void score_tile(const uint32_t (&q)[Tiled<Shape>::kKeySteps][4],
                                           const bf16* keys, TiledExchange<Shape>& exchange) {
  using T = Tiled<Shape>;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4, t2 = lane % 4 * 2;
  const int first_token = warp % T::kScoreGroups * T::kScoreTokens;
  const bf16* from = keys + (first_token + lane / 16 * 8 + lane % 8) * T::kKeyStride +
                     first_key_step<Shape>() * 16 + lane / 8 % 2 * 8;
  float s[2][2][4] = {};  // [chain][8 tokens]
#pragma unroll
  for (int k = 0; k < T::kKeySteps; ++k) {
    uint32_t b[4];
    load_matrices(b, from + k * 16);
    mma_bf16(s[k % 2][0], q[k], b[0], b[1]);
    mma_bf16(s[k % 2][1], q[k], b[2], b[3]);
  }
  auto& mine = exchange.scores[warp / T::kScoreGroups];
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const float* even = s[0][j];
    const float* odd = s[1][j];
    const int token = first_token + j * 8 + t2;
    *reinterpret_cast<float2*>(&mine[g][token]) = make_float2(even[0] + odd[0], even[1] + odd[1]);
    *reinterpret_cast<float2*>(&mine[g + 8][token]) =
        make_float2(even[2] + odd[2], even[3] + odd[3]);
  }
}

// The softmax of this warp's two rows, the same `max` in all lanes, a lane's share of `sum`.
template <typename Shape>
class TiledSoftmax {
 public:
  __device__ __forceinline__ TiledSoftmax(const TiledParams& p, const TiledWork& w)
      : scale_log2_(p.scale_log2) {
#pragma unroll
    for (int i = 0; i < 2; ++i) end_[i] = TiledRow(p, w, first_row() + i).end;
  }
  // Of a tile whose scores all warps have stored.
  __device__ __forceinline__ void weigh_tile(int first_token, TiledExchange<Shape>& exchange) {
    constexpr int kLaneTokens = Shape::kTile / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    float v[2][kLaneTokens], tile_max[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      tile_max[i] = -INFINITY;
#pragma unroll
      for (int c = 0; c < kLaneTokens; ++c) {
        const int at = lane + 32 * c;
        float score = exchange.scores[0][first_row() + i][at];
#pragma unroll
        for (int part = 1; part < Tiled<Shape>::kKeyParts; ++part)
          score += exchange.scores[part][first_row() + i][at];
        v[i][c] = first_token + at < end_[i] ? score * scale_log2_ : -INFINITY;
        tile_max[i] = fmaxf(tile_max[i], v[i][c]);
      }
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        tile_max[i] = fmaxf(tile_max[i], __shfl_xor_sync(0xffffffffu, tile_max[i], offset));
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      // Finite after the first tile: every row sees its first token.
      const float new_max = fmaxf(max_[i], tile_max[i]);
      const float rescale = exp2f(max_[i] - new_max);
      max_[i] = new_max;
      sum_[i] *= rescale;
#pragma unroll
      for (int c = 0; c < kLaneTokens; ++c) {
        const bf16 weight = from_float<bf16>(exp2f(v[i][c] - new_max));
        exchange.weights[first_row() + i][lane + 32 * c] = weight;
        sum_[i] += to_float(weight);
      }
      if (lane == 0) exchange.rescale[first_row() + i] = rescale;
    }
  }
  // After the last tile; a barrier of the block then makes max and sum of all rows known.
  __device__ __forceinline__ void finish(TiledExchange<Shape>& exchange) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int offset = 16; offset > 0; offset /= 2)
        sum_[i] += __shfl_xor_sync(0xffffffffu, sum_[i], offset);
      if (threadIdx.x % 32 != 0) continue;
      exchange.max[first_row() + i] = max_[i];
      exchange.sum[first_row() + i] = sum_[i];
    }
  }

 private:
  static_assert(2 * kTiledWarps == kRows, "a warp has two rows");
  __device__ static int first_row() { return static_cast<int>(threadIdx.x) / 32 * 2; }

  const float scale_log2_;
  int end_[2];
  float max_[2] = {-INFINITY, -INFINITY}, sum_[2] = {0, 0};
};

// o[kRows, kColumns] of this warp: sums of exp2(score - max) v.
template <typename Shape>
struct TiledOutput {
  static constexpr int kTiles = Tiled<Shape>::kColumns / 8;
  float o[kTiles][4] = {};

  // One more tile, whose weights all warps have stored.
  __device__ __forceinline__ void add_tile(const TiledExchange<Shape>& exchange,
                                           const bf16* values) {
    using T = Tiled<Shape>;
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const float low = exchange.rescale[lane / 4], high = exchange.rescale[lane / 4 + 8];
    const bf16* from = values + lane % 16 * T::kKeyStride + warp * T::kColumns + lane / 16 * 8;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      o[n][0] *= low;
      o[n][1] *= low;
      o[n][2] *= high;
      o[n][3] *= high;
    }
#pragma unroll
    for (int k = 0; k < T::kValueSteps; ++k) {
      uint32_t a[4];
      load_matrices(a, &exchange.weights[lane % 16][k * 16 + lane / 16 * 8]);
#pragma unroll
      for (int n = 0; n < kTiles; n += 2) {
        uint32_t b[4];
        load_matrices_transposed(b, from + k * 16 * T::kKeyStride + n * 8);
        mma_bf16(o[n], a, b[0], b[1]);
        mma_bf16(o[n + 1], a, b[2], b[3]);
      }
    }
  }

  // The result, or a split's part of it. `max` and `sum` of all rows are known.
  __device__ __forceinline__ void store(const TiledParams& p, const TiledWork& w,
                                        const TiledExchange<Shape>& exchange) const {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int column = warp * Tiled<Shape>::kColumns + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = lane / 4 + 8 * i;
      const TiledRow row(p, w, r);
      if (!row.valid) continue;
      if (w.split < 0) {
        const float scale = 1 / exchange.sum[r];
        bf16* to = p.out + row.token * p.out_token_stride + row.head * p.out_head_stride + column;
#pragma unroll
        for (int n = 0; n < kTiles; ++n)
          *reinterpret_cast<uint32_t*>(to + n * 8) =
              pack_bf16(o[n][2 * i] * scale, o[n][2 * i + 1] * scale);
      } else {
        const int64_t part = p.partials.row(w.sequence, w.split, row.head);
        float* to = p.partials.sums + part * Shape::kValueWidth + column;
#pragma unroll
        for (int n = 0; n < kTiles; ++n)
          *reinterpret_cast<float2*>(to + n * 8) = make_float2(o[n][2 * i], o[n][2 * i + 1]);
        if (column == 0) p.partials.stats[part] = make_float2(exchange.max[r], exchange.sum[r]);
      }
    }
  }
};

template <typename Shape>
__device__ void attend(const TiledParams& p, const TiledWork& w, TiledMemory<Shape>& memory) {
  using T = Tiled<Shape>;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int n_tiles = (w.end - w.begin + Shape::kTile - 1) / Shape::kTile;

  // The first tiles and the query are on their way. The query goes through the last stage, which is
  // not filled before everyone has come to the first tile.
  bf16* const query = memory.stages[Shape::kStages - 1];
  constexpr int kAhead = Shape::kStages - 1;
#pragma unroll
  for (int i = 0; i < kAhead && w.newest >= 0; ++i)
    if (i < n_tiles) copy_tile<Shape>(p, w, w.begin + i * Shape::kTile, memory.stages[i], w.newest);
  if (w.newest >= 0) {
    wait_for_previous_kernel();
    const int tile = (w.newest - w.begin) / Shape::kTile;
    if (w.newest < w.end && tile < kAhead)
      copy_token<Shape>(p, w, w.newest, w.begin + tile * Shape::kTile, memory.stages[tile]);
  }
  copy_query<Shape>(p, w, query);
  commit_copies();
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    if (i < n_tiles && w.newest < 0)
      copy_tile<Shape>(p, w, w.begin + i * Shape::kTile, memory.stages[i]);
    commit_copies();
  }
  TiledSoftmax<Shape> softmax(p, w);
  wait_for_copies<kAhead>();
  __syncthreads();
  uint32_t q[T::kKeySteps][4];
#pragma unroll
  for (int k = 0; k < T::kKeySteps; ++k) {
    const int column = (first_key_step<Shape>() + k) * 16;
    if constexpr (Shape::kRotateQuery) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int r = lane / 4 + i % 2 * 8;
        q[k][i] = rotated_pair<Shape>(p, query + r * T::kKeyStride, TiledRow(p, w, r).position,
                                      column + lane % 4 * 2 + i / 2 * 8);
      }
    } else {
      load_matrices(q[k], query + lane % 16 * T::kKeyStride + column + lane / 16 * 8);
    }
  }

  TiledOutput<Shape> out;
  for (int i = 0; i < n_tiles; ++i) {
    wait_for_copies<Shape::kStages - 2>();
    __syncthreads();  // tile i is here, and everyone is done with tile i - 1
    const int ahead = i + Shape::kStages - 1;
    if (ahead < n_tiles)
      copy_tile<Shape>(p, w, w.begin + ahead * Shape::kTile, memory.stages[ahead % Shape::kStages]);
    commit_copies();
    const bf16* keys = memory.stages[i % Shape::kStages];
    score_tile<Shape>(q, keys, memory.exchange);
    __syncthreads();
    softmax.weigh_tile(w.begin + i * Shape::kTile, memory.exchange);
    __syncthreads();
    out.add_tile(memory.exchange, keys + T::kValueElements);  // the keys, or what is behind them
  }
  wait_for_copies<0>();
  softmax.finish(memory.exchange);
  __syncthreads();
  out.store(p, w, memory.exchange);
}

// The heads of this block; the tokens are still to be said.
__device__ __forceinline__ TiledWork head_work(const TiledParams& p, int sequence) {
  const int head_groups = (p.heads_per_kv_head + kRows - 1) / kRows;  // per KV head
  TiledWork w = {};
  w.sequence = sequence;
  w.kv_head = blockIdx.z / head_groups;
  const int group_head = blockIdx.z % head_groups * kRows;
  w.head = w.kv_head * p.heads_per_kv_head + group_head;
  w.n_heads = min(p.heads_per_kv_head - group_head, kRows);
  return w;
}

template <typename Shape>
__global__ __launch_bounds__(kTiledThreads) void tiled_attention_kernel(const TiledParams p) {
  extern __shared__ uint4 shared[];
  auto& memory = *reinterpret_cast<TiledMemory<Shape>*>(shared);
  const int s = blockIdx.y;
  const QueryRange range = query_range(p.batch, s);
  const int first = range.first, n_queries = range.count;
  if (n_queries != 1) wait_for_previous_kernel();

  TiledWork w = head_work(p, s);
  if (n_queries == 1) {
    const int n = range.n, width = split_tokens(n);
    w.begin = static_cast<int>(blockIdx.x) * width;
    if (w.begin >= n) return;
    w.first_token = first;
    w.n_tokens = 1;
    w.end = min(n, w.begin + width);
    w.split = n > width ? static_cast<int>(blockIdx.x) : -1;
    w.newest = n - 1;
    attend<Shape>(p, w, memory);
    return;
  }
  const int tokens_per_block = kRows / min(p.heads_per_kv_head, kRows);
  w.begin = 0;
  w.split = -1;
  w.newest = -1;
  for (int i = static_cast<int>(blockIdx.x) * tokens_per_block; i < n_queries;
       i += static_cast<int>(gridDim.x) * tokens_per_block) {
    w.first_token = first + i;
    w.n_tokens = min(tokens_per_block, n_queries - i);
    w.end = 0;
    for (int k = 0; k < w.n_tokens; ++k)
      w.end = max(w.end, p.batch.positions[w.first_token + k] + 1);
    __syncthreads();  // everyone is done with the tiles and scores of the rows before
    attend<Shape>(p, w, memory);
  }
}

// Enough blocks for the splits of decode rows; for prefill rows, as many as the GPU has room for.
inline dim3 tiled_grid(Exec& exec, const TiledParams& p, int64_t T, int64_t S, int64_t n_kv_heads) {
  const int64_t row_groups = T > S ? T * p.heads_per_kv_head / kRows + 1 : 0;
  const int64_t blocks = std::max<int64_t>(p.partials.max_splits,
                                           std::min<int64_t>(row_groups, 4 * exec.cuda().n_sms()));
  const int64_t head_groups = (p.heads_per_kv_head + kRows - 1) / kRows;
  return dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(S),
              static_cast<unsigned>(n_kv_heads * head_groups));
}

template <typename Shape>
void tiled_attention(Exec& exec, const char* op, const TiledParams& p, int64_t T, int64_t S,
                     int64_t n_kv_heads) {
  launch(exec, op,
         {.grid = tiled_grid(exec, p, T, S, n_kv_heads),
          .threads = kTiledThreads,
          .shared_bytes = sizeof(TiledMemory<Shape>)},
         tiled_attention_kernel<Shape>, p);
}

}  // namespace dsr::cuda
