// Attention with the tensor cores over a paged cache of bf16 or fp8, for the head sizes that
// released models have. The rows of a block are the heads that share keys: of one token where they
// are 16 or more, of several consecutive tokens where they are fewer.
//
// Mapping   grid (splits or row groups, sequences, head groups), 8 warps. A tile of kTile tokens is
//           copied to shared memory kStages - 1 tiles ahead; of fp8, it comes to registers while
//           the one before is multiplied (tile_codes.cuh). Scores: each warp takes 8 tokens and a
//           part of the width; the parts meet in shared memory. Softmax: every warp does all of
//           it, in the layout of the next product's operand. Values: each warp takes its share of
//           the columns.
// Rounding  the rotated query (GQA), what fp8 stands for and p to bf16; sums in fp32. The sum of p
// is that of the
//           rounded ones.
// Traffic   decode: every key and value once per 16 heads, and 2 * 4 bytes * width per head and
//           split for the parts.
#pragma once

#include "attention/tile_codes.cuh"
#include "attention/tiled_shape.cuh"

namespace dsr::cuda {

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
    const bf16* from = valid ? p.q.row(w.first_token + token, w.head + head) + column : p.q.data;
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

template <typename Shape>
__device__ void attend(const TiledParams& p, const TiledWork& w, bf16* stages, float* scores) {
  using T = Tiled<Shape>;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int g = lane / 4, t2 = lane % 4 * 2;  // fragment row, and first of two columns
  const int token_tile = warp % T::kTokenTiles, key_part = warp / T::kTokenTiles;
  const int heads_in_row = min(p.heads_per_kv_head, kRows);

  const int n_tiles = (w.end - w.begin + Shape::kTile - 1) / Shape::kTile;
  // Rows g and g + 8: their token, head and how far they look.
  int row_token[2], row_head[2], row_end[2], row_position[2];
  bool row_valid[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int r = g + 8 * i;
    const int token = r / heads_in_row, head = r % heads_in_row;
    row_valid[i] = token < w.n_tokens && head < w.n_heads;
    row_token[i] = w.first_token + token;
    row_head[i] = w.head + head;
    row_position[i] = row_valid[i] ? p.batch.positions[row_token[i]] : 0;
    row_end[i] = row_valid[i] ? min(row_position[i] + 1, w.end) : w.end;
  }

  // The first tiles and the query are on their way. The query goes through the last stage, which is
  // not filled before everyone has come to the first tile.
  bf16* const query = stages + (Shape::kStages - 1) * T::kStageElements;
  constexpr int kAhead = Shape::kStages - 1;
  TileCodes<Shape> codes;
  if constexpr (Shape::kFp8) {
    if (w.newest >= 0) wait_for_previous_kernel();
    copy_query<Shape>(p, w, query);
    commit_copies();
    codes.load(p, w, w.begin);
    codes.store(stages);
    wait_for_copies<0>();
  } else {
#pragma unroll
    for (int i = 0; i < kAhead && w.newest >= 0; ++i)
      if (i < n_tiles)
        copy_tile<Shape>(p, w, w.begin + i * Shape::kTile, stages + i * T::kStageElements,
                         w.newest);
    if (w.newest >= 0) {
      wait_for_previous_kernel();
      const int tile = (w.newest - w.begin) / Shape::kTile;
      if (w.newest < w.end && tile < kAhead)
        copy_token<Shape>(p, w, w.newest, w.begin + tile * Shape::kTile,
                          stages + tile * T::kStageElements);
    }
    copy_query<Shape>(p, w, query);
    commit_copies();
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (i < n_tiles && w.newest < 0)
        copy_tile<Shape>(p, w, w.begin + i * Shape::kTile, stages + i * T::kStageElements);
      commit_copies();
    }
    wait_for_copies<kAhead>();
  }
  __syncthreads();
  uint32_t q[T::kKeySteps][4];
#pragma unroll
  for (int k = 0; k < T::kKeySteps; ++k) {
    const int column = (key_part * T::kKeySteps + k) * 16;
    if constexpr (Shape::kRotateQuery) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        q[k][i] = rotated_pair<Shape>(p, query + (g + i % 2 * 8) * T::kKeyStride,
                                      row_position[i % 2], column + t2 + i / 2 * 8);
    } else {
      load_matrices(q[k], query + lane % 16 * T::kKeyStride + column + lane / 16 * 8);
    }
  }

  constexpr int kValueTiles = T::kColumns / 8;
  float o[kValueTiles][4] = {};  // [kRows, kColumns] of this warp
  float max[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  for (int i = 0; i < n_tiles; ++i) {
    if constexpr (!Shape::kFp8) wait_for_copies<Shape::kStages - 2>();
    __syncthreads();  // tile i is here, and everyone is done with tile i - 1
    const int ahead = i + (Shape::kFp8 ? 1 : Shape::kStages - 1);
    bf16* const ahead_stage = stages + ahead % Shape::kStages * T::kStageElements;
    if constexpr (Shape::kFp8) {
      if (ahead < n_tiles) codes.load(p, w, w.begin + ahead * Shape::kTile);
    } else {
      if (ahead < n_tiles) copy_tile<Shape>(p, w, w.begin + ahead * Shape::kTile, ahead_stage);
      commit_copies();
    }
    const bf16* keys = stages + i % Shape::kStages * T::kStageElements;
    const bf16* values = keys + T::kValueElements;  // the keys themselves, or behind them
    float* tile_scores = scores + i % 2 * T::kScoreElements;

    // scores[kRows, 8 tokens] over this warp's part of the width, in two chains
    float s[2][4] = {};
#pragma unroll
    for (int k = 0; k < T::kKeySteps; k += 2) {
      uint32_t b[4];
      load_matrices(b, keys + (token_tile * 8 + lane % 8) * T::kKeyStride +
                           (key_part * T::kKeySteps + k) * 16 + lane / 8 * 8);
      mma_bf16(s[0], q[k], b[0], b[1]);
      mma_bf16(s[1], q[k + 1], b[2], b[3]);
    }
    float* mine = tile_scores + key_part * kRows * T::kScoreStride + token_tile * 8 + t2;
    *reinterpret_cast<float2*>(mine + g * T::kScoreStride) =
        make_float2(s[0][0] + s[1][0], s[0][1] + s[1][1]);
    *reinterpret_cast<float2*>(mine + (g + 8) * T::kScoreStride) =
        make_float2(s[0][2] + s[1][2], s[0][3] + s[1][3]);
    __syncthreads();

    // p[kRows, kTile] as the first operand of the next product
    uint32_t probability[T::kValueSteps][4];
    float rescale[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float2 v[T::kTokenTiles];
      float tile_max = -INFINITY;
#pragma unroll
      for (int j = 0; j < T::kTokenTiles; ++j) {
        const float* from = tile_scores + (g + 8 * r) * T::kScoreStride + j * 8 + t2;
        v[j] = *reinterpret_cast<const float2*>(from);
        if constexpr (T::kKeyParts == 2) {
          const float2 other = *reinterpret_cast<const float2*>(from + kRows * T::kScoreStride);
          v[j].x += other.x;
          v[j].y += other.y;
        }
        const int token = w.begin + i * Shape::kTile + j * 8 + t2;
        v[j].x = token < row_end[r] ? v[j].x * p.scale_log2 : -INFINITY;
        v[j].y = token + 1 < row_end[r] ? v[j].y * p.scale_log2 : -INFINITY;
        tile_max = fmaxf(tile_max, fmaxf(v[j].x, v[j].y));
      }
      tile_max = fmaxf(tile_max, __shfl_xor_sync(0xffffffffu, tile_max, 1));
      tile_max = fmaxf(tile_max, __shfl_xor_sync(0xffffffffu, tile_max, 2));
      // Finite after the first tile: every row sees its first token.
      const float new_max = fmaxf(max[r], tile_max);
      rescale[r] = exp2f(max[r] - new_max);
      max[r] = new_max;
      float tile_sum = 0;
#pragma unroll
      for (int j = 0; j < T::kTokenTiles; ++j) {
        const uint32_t pair = pack_bf16(exp2f(v[j].x - new_max), exp2f(v[j].y - new_max));
        tile_sum += low_bf16(pair) + high_bf16(pair);
        probability[j / 2][j % 2 * 2 + r] = pair;
      }
      sum[r] = sum[r] * rescale[r] + tile_sum;
    }

    // o[kRows, kColumns] += p v
#pragma unroll
    for (int n = 0; n < kValueTiles; ++n) {
      o[n][0] *= rescale[0];
      o[n][1] *= rescale[0];
      o[n][2] *= rescale[1];
      o[n][3] *= rescale[1];
    }
#pragma unroll
    for (int k = 0; k < T::kValueSteps; ++k) {
#pragma unroll
      for (int n = 0; n < kValueTiles; n += 2) {
        uint32_t b[4];
        load_matrices_transposed(b, values + (k * 16 + lane % 16) * T::kKeyStride +
                                        warp * T::kColumns + n * 8 + lane / 16 * 8);
        mma_bf16(o[n], probability[k], b[0], b[1]);
        mma_bf16(o[n + 1], probability[k], b[2], b[3]);
      }
    }
    if constexpr (Shape::kFp8)
      if (ahead < n_tiles) codes.store(ahead_stage);
  }
  wait_for_copies<0>();

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
    sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
    if (!row_valid[r]) continue;
    const int column = warp * T::kColumns + t2;
    if (w.split < 0) {
      const float scale = 1 / sum[r];
      bf16* to = p.out.row(row_token[r], row_head[r]);
#pragma unroll
      for (int n = 0; n < kValueTiles; ++n)
        *reinterpret_cast<uint32_t*>(to + column + n * 8) =
            pack_bf16(o[n][2 * r] * scale, o[n][2 * r + 1] * scale);
    } else {
      const int64_t row = p.partials.row(w.sequence, w.split, row_head[r]);
      float* to = p.partials.sums + row * Shape::kValueWidth;
#pragma unroll
      for (int n = 0; n < kValueTiles; ++n)
        *reinterpret_cast<float2*>(to + column + n * 8) = make_float2(o[n][2 * r], o[n][2 * r + 1]);
      if (warp == 0 && t2 == 0) p.partials.stats[row] = make_float2(max[r], sum[r]);
    }
  }
}

template <typename Shape>
__global__ __launch_bounds__(kTiledThreads) void tiled_attention_kernel(const TiledParams p) {
  using T = Tiled<Shape>;
  extern __shared__ __align__(16) std::byte shared[];
  auto* stages = reinterpret_cast<bf16*>(shared);  // [kStages][kTile, width + 8] keys, then values
  auto* scores = reinterpret_cast<float*>(shared + int64_t{Shape::kStages} * T::kStageElements * 2);
  const int s = blockIdx.y;
  const QueryRange range = query_range(p.batch, s);
  const int first = range.first, n_queries = range.count;
  if (n_queries != 1) wait_for_previous_kernel();
  if (n_queries == 1 && p.prefill_only) return;

  const int head_groups = (p.heads_per_kv_head + kRows - 1) / kRows;  // per KV head
  TiledWork w;
  w.sequence = s;
  w.kv_head = blockIdx.z / head_groups;
  const int group_head = blockIdx.z % head_groups * kRows;
  w.head = w.kv_head * p.heads_per_kv_head + group_head;
  w.n_heads = min(p.heads_per_kv_head - group_head, kRows);
  if (n_queries == 1) {
    const int n = range.n, width = split_tokens(n);
    w.begin = static_cast<int>(blockIdx.x) * width;
    if (w.begin >= n) return;
    w.first_token = first;
    w.n_tokens = 1;
    w.end = min(n, w.begin + width);
    w.split = n > width ? static_cast<int>(blockIdx.x) : -1;
    w.newest = n - 1;
    attend<Shape>(p, w, stages, scores);
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
    attend<Shape>(p, w, stages, scores);
  }
}

template <typename Shape>
void tiled_attention(Exec& exec, const char* op, const TiledParams& p, int64_t T, int64_t S,
                     int64_t n_kv_heads) {
  // Enough blocks for the splits of decode rows; for prefill rows, as many as the GPU has room for.
  const int64_t row_groups = T > S ? T * p.heads_per_kv_head / kRows + 1 : 0;
  const int64_t blocks = std::max<int64_t>(p.partials.max_splits,
                                           std::min<int64_t>(row_groups, 4 * exec.cuda().n_sms()));
  const int64_t head_groups = (p.heads_per_kv_head + kRows - 1) / kRows;
  launch(exec, op,
         {.grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(S),
                       static_cast<unsigned>(n_kv_heads * head_groups)),
          .threads = kTiledThreads,
          .shared_bytes = Tiled<Shape>::kSharedBytes},
         tiled_attention_kernel<Shape>, p);
}

}  // namespace dsr::cuda
