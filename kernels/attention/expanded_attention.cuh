// Attention of prompts over keys and values of every head (expanded MLA), with the tensor cores.
//
// Mapping   grid (heads, tiles of 64 queries of a sequence, the longest first), 8 warps. Two groups
//           of 4 warps share out the tiles of 64 keys, even and odd; a warp has 16 queries and its
//           group's keys in a ring of two stages. At the end the odd tiles' sums join the even
//           ones'.
// Context   rows of all sequences one behind the other, each sequence from a multiple of 64 on. It
//           is expanded and attended to in parts of n_rows; between two parts the sums of a query
//           wait in `state`.
// Rounding  rotated queries, keys, values and p to bf16; sums in fp32. The sum of p is that of the
//           rounded ones.
// Traffic   keys and values once per 64 queries and head, mostly from the L2.
#pragma once

#include "attention/paged.cuh"

namespace dsr::cuda {

constexpr int kExpandedNope = 128, kExpandedRope = 64, kExpandedValue = 128;
constexpr int kExpandedKey = kExpandedNope + kExpandedRope;
constexpr int kQueryTile = 64, kKeyTile = 64;
constexpr int kExpandedGroups = 2, kGroupThreads = 128;
constexpr int kExpandedThreads = kExpandedGroups * kGroupThreads;
constexpr int kKeyChunks = kExpandedKey / 8, kValueChunks = kExpandedValue / 8;  // of 16 bytes

// A tile of keys and their values, [64][24] and [64][16] chunks; chunk c of row r stands at
// c ^ (r & 7), so that the eight rows which ldmatrix reads at once lie in different banks.
struct ExpandedTile {
  uint4 keys[kKeyTile][kKeyChunks];
  uint4 values[kKeyTile][kValueChunks];
};
constexpr int kExpandedStages = 2;
using ExpandedRing = ExpandedTile[kExpandedGroups][kExpandedStages];
constexpr int kMergeStride = kExpandedValue + 4;  // floats
static_assert(sizeof(ExpandedRing) >= kQueryTile * (kMergeStride + 2) * sizeof(float),
              "the odd tiles' sums take the ring's place");
static_assert(sizeof(ExpandedRing) <= 163 * 1024, "of an A100's shared memory");

struct ExpandedParams {
  HeadRows out;      // [T, H, kExpandedValue]
  HeadRows q;        // [T, H, kExpandedKey], not rotated
  const float* cos;  // [P, kExpandedRope / 2]
  const float* sin;
  const bf16* kv;    // [n_rows, H, kExpandedNope + kExpandedValue]
  const bf16* k_pe;  // [n_rows, kExpandedRope]
  float* state;      // [T, H, kExpandedValue], and
  float2* stats;     // [T, H] {max, sum of exp2}; null where there is one part
  PagedBatch batch;
  int S, H;
  int first_row, n_rows;  // the part of the context
  float scale_log2;       // softmax_scale * log2(e)
};

// A sequence of the batch, and the item of it that is looked for.
struct PromptItem {
  int sequence;      // -1: there are fewer items
  int first, count;  // its tokens
  int n;             // its rows in the cache
  int first_row;     // of these in the context
  int item, n_items;
};
// Item x, where a sequence has one for every kQueryTile tokens (kQueries) or for every page. By a
// whole warp. Reads nothing but the batch.
template <bool kQueries>
__device__ __forceinline__ PromptItem find_item(const PagedBatch& b, int S, int x) {
  constexpr int kPage = static_cast<int>(kPageTokens);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int items_before = 0, pages_before = 0;
  for (int base = 0; base < S; base += 32) {
    const int s = base + lane;
    const int first = s < S ? b.cu_seqlens_q[s] : 0, end = s < S ? b.cu_seqlens_q[s + 1] : 0;
    const int n = end > first ? b.positions[end - 1] + 1 : 0;
    const int pages = (n + kPage - 1) / kPage;
    const int items = kQueries ? (end - first + kQueryTile - 1) / kQueryTile : pages;
    int items_to = items, pages_to = pages;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int i = __shfl_up_sync(0xffffffffu, items_to, offset);
      const int p = __shfl_up_sync(0xffffffffu, pages_to, offset);
      if (lane >= offset) {
        items_to += i;
        pages_to += p;
      }
    }
    const unsigned found = __ballot_sync(0xffffffffu, items_before + items_to > x);
    if (found != 0) {
      const int from = __ffs(static_cast<int>(found)) - 1;
      const auto at = [&](int v) { return __shfl_sync(0xffffffffu, v, from); };
      return {.sequence = base + from,
              .first = at(first),
              .count = at(end - first),
              .n = at(n),
              .first_row = at((pages_before + pages_to - pages) * kPage),
              .item = x - at(items_before + items_to - items),
              .n_items = at(items)};
    }
    items_before += __shfl_sync(0xffffffffu, items_to, 31);
    pages_before += __shfl_sync(0xffffffffu, pages_to, 31);
  }
  return {.sequence = -1};
}

// The queries of one block and the keys of this part that they see.
struct ExpandedWork {
  int first_token, n_tokens;  // of the batch
  int head;
  int first_row;       // of the keys, in this part
  int first_position;  // of the first key
  int n_tiles;
  bool begun, ends;  // in an earlier part; in this one
};

__device__ __forceinline__ ExpandedWork expanded_work(const ExpandedParams& p) {
  ExpandedWork w{};
  const PromptItem i = find_item<true>(p.batch, p.S, static_cast<int>(blockIdx.y));
  if (i.sequence < 0) return w;
  const int tile = i.n_items - 1 - i.item;
  w.first_token = i.first + tile * kQueryTile;
  w.n_tokens = min(kQueryTile, i.count - tile * kQueryTile);
  w.head = static_cast<int>(blockIdx.x);
  const int end = i.first_row + p.batch.positions[w.first_token + w.n_tokens - 1] + 1;
  const int part_end = p.first_row + p.n_rows;
  const int begin = max(i.first_row, p.first_row);
  w.first_row = begin - p.first_row;
  w.first_position = begin - i.first_row;
  w.n_tiles = max(0, (min(end, part_end) - begin + kKeyTile - 1) / kKeyTile);
  w.begun = i.first_row < p.first_row;
  w.ends = end <= part_end;
  return w;
}

__device__ __forceinline__ void copy_expanded_tile(const ExpandedParams& p, const ExpandedWork& w,
                                                   int tile, ExpandedTile& to) {
  constexpr int kHead = kExpandedNope + kExpandedValue;
  const int tid = static_cast<int>(threadIdx.x) % kGroupThreads;
  const int64_t row = w.first_row + tile * kKeyTile;
  {
    const int r0 = tid / 16, c = tid % 16;
    const bf16* from = p.kv + ((row + r0) * p.H + w.head) * kHead + c * 8;
    const int64_t step = int64_t{8} * p.H * kHead;
#pragma unroll
    for (int i = 0; i < kKeyTile / 8; ++i) {
      const int r = r0 + 8 * i;
      copy_async_16(&to.keys[r][c ^ (r & 7)], from + i * step);
      copy_async_16(&to.values[r][c ^ (r & 7)], from + i * step + kExpandedNope);
    }
  }
  const int r0 = tid / 8, c = tid % 8;
  const bf16* from = p.k_pe + (row + r0) * kExpandedRope + c * 8;
#pragma unroll
  for (int i = 0; i < kKeyTile / 16; ++i) {
    const int r = r0 + 16 * i;
    copy_async_16(&to.keys[r][16 + (c ^ (r & 7))], from + i * 16 * kExpandedRope);
  }
}

// Pairs (2i, 2i + 1) of 8 elements turned by their angles; products and sums rounded one by one, as
// the definition has it.
__device__ __forceinline__ uint4 rotated_chunk(const uint4& v, const float* cos, const float* sin) {
  const uint32_t in[4] = {v.x, v.y, v.z, v.w};
  uint32_t out[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float even = low_bf16(in[i]), odd = high_bf16(in[i]);
    out[i] = pack_bf16(__fsub_rn(__fmul_rn(even, cos[i]), __fmul_rn(odd, sin[i])),
                       __fadd_rn(__fmul_rn(odd, cos[i]), __fmul_rn(even, sin[i])));
  }
  return make_uint4(out[0], out[1], out[2], out[3]);
}

// Rotated queries in the place of a tile's keys, zeros where there are fewer.
__device__ __forceinline__ void stage_queries(const ExpandedParams& p, const ExpandedWork& w,
                                              ExpandedTile& to) {
  for (int i = static_cast<int>(threadIdx.x); i < kQueryTile * kKeyChunks; i += kExpandedThreads) {
    const int r = i / kKeyChunks, c = i % kKeyChunks;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (r < w.n_tokens) {
      const int64_t token = w.first_token + r;
      v = *reinterpret_cast<const uint4*>(p.q.row(token, w.head) + c * 8);
      if (c >= kExpandedNope / 8) {
        const int64_t at =
            int64_t{p.batch.positions[token]} * (kExpandedRope / 2) + (c - kExpandedNope / 8) * 4;
        v = rotated_chunk(v, p.cos + at, p.sin + at);
      }
    }
    to.keys[r][c ^ (r & 7)] = v;
  }
}

// What a warp knows of its 16 queries: a thread has rows g and g + 8 of them.
struct ExpandedSums {
  float o[kExpandedValue / 8][4] = {};
  float max[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};  // the sum is this thread's part
};

// Scores [16, 64] to p, the first operand of the next product, and the running sums to its maxima.
__device__ __forceinline__ void expanded_softmax(float (&s)[kKeyTile / 8][4], float scale_log2,
                                                 const int (&last_key)[2], bool all_seen,
                                                 ExpandedSums& sums,
                                                 uint32_t (&probability)[kKeyTile / 16][4]) {
  const int t2 = static_cast<int>(threadIdx.x) % 4 * 2;
  float rescale[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float tile_max = -INFINITY;
#pragma unroll
    for (int j = 0; j < kKeyTile / 8; ++j) {
      float(&v)[4] = s[j];
      v[2 * r] *= scale_log2;
      v[2 * r + 1] *= scale_log2;
      if (!all_seen) {  // keys of this tile past the query's own
        if (j * 8 + t2 > last_key[r]) v[2 * r] = -INFINITY;
        if (j * 8 + t2 + 1 > last_key[r]) v[2 * r + 1] = -INFINITY;
      }
      tile_max = fmaxf(tile_max, fmaxf(v[2 * r], v[2 * r + 1]));
    }
    tile_max = fmaxf(tile_max, __shfl_xor_sync(0xffffffffu, tile_max, 1));
    tile_max = fmaxf(tile_max, __shfl_xor_sync(0xffffffffu, tile_max, 2));
    const float new_max = fmaxf(sums.max[r], tile_max);
    // Where the query has seen no key yet, all are -inf and become 0.
    const float base = new_max == -INFINITY ? 0.0f : new_max;
    rescale[r] = exp2f(sums.max[r] - base);
    sums.max[r] = new_max;
    float tile_sum = 0;
#pragma unroll
    for (int j = 0; j < kKeyTile / 8; ++j) {
      const uint32_t pair = pack_bf16(exp2f(s[j][2 * r] - base), exp2f(s[j][2 * r + 1] - base));
      tile_sum += low_bf16(pair) + high_bf16(pair);
      probability[j / 2][j % 2 * 2 + r] = pair;
    }
    sums.sum[r] = sums.sum[r] * rescale[r] + tile_sum;
  }
#pragma unroll
  for (int n = 0; n < kExpandedValue / 8; ++n) {
    sums.o[n][0] *= rescale[0];
    sums.o[n][1] *= rescale[0];
    sums.o[n][2] *= rescale[1];
    sums.o[n][3] *= rescale[1];
  }
}

__device__ __forceinline__ void attend_tile(const ExpandedTile& tile,
                                            const uint32_t (&q)[kExpandedKey / 16][4],
                                            float scale_log2, const int (&last_key)[2],
                                            bool all_seen, ExpandedSums& sums) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float s[kKeyTile / 8][4] = {};
#pragma unroll
  for (int k = 0; k < kExpandedKey / 16; k += 2) {
#pragma unroll
    for (int j = 0; j < kKeyTile / 8; ++j) {
      uint32_t b[4];
      load_matrices(b, &tile.keys[j * 8 + lane % 8][(k * 2 + lane / 8) ^ (lane & 7)]);
      mma_bf16(s[j], q[k], b[0], b[1]);
      mma_bf16(s[j], q[k + 1], b[2], b[3]);
    }
  }
  uint32_t probability[kKeyTile / 16][4];
  expanded_softmax(s, scale_log2, last_key, all_seen, sums, probability);
#pragma unroll
  for (int k = 0; k < kKeyTile / 16; ++k) {
#pragma unroll
    for (int n = 0; n < kExpandedValue / 8; n += 2) {
      uint32_t b[4];
      load_matrices_transposed(b, &tile.values[k * 16 + lane % 16][(n + lane / 16) ^ (lane & 7)]);
      mma_bf16(sums.o[n], probability[k], b[0], b[1]);
      mma_bf16(sums.o[n + 1], probability[k], b[2], b[3]);
    }
  }
}

// The sums of the odd tiles go to shared memory, those of the even ones take them from there.
__device__ __forceinline__ void leave_sums(const ExpandedSums& sums, int row, float* shared) {
  const int t2 = static_cast<int>(threadIdx.x) % 4 * 2;
  float* stats = shared + kQueryTile * kMergeStride;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float* to = shared + (row + 8 * r) * kMergeStride + t2;
#pragma unroll
    for (int n = 0; n < kExpandedValue / 8; ++n)
      *reinterpret_cast<float2*>(to + n * 8) = make_float2(sums.o[n][2 * r], sums.o[n][2 * r + 1]);
    if (t2 == 0)
      *reinterpret_cast<float2*>(stats + 2 * (row + 8 * r)) = make_float2(sums.max[r], sums.sum[r]);
  }
}
__device__ __forceinline__ void take_sums(ExpandedSums& sums, int row, const float* shared) {
  const int t2 = static_cast<int>(threadIdx.x) % 4 * 2;
  const float* stats = shared + kQueryTile * kMergeStride;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float2 other = *reinterpret_cast<const float2*>(stats + 2 * (row + 8 * r));
    const float max = fmaxf(sums.max[r], other.x);
    const float mine = exp2f(sums.max[r] - max), its = exp2f(other.x - max);
    sums.max[r] = max;
    sums.sum[r] = sums.sum[r] * mine + other.y * its;
    const float* from = shared + (row + 8 * r) * kMergeStride + t2;
#pragma unroll
    for (int n = 0; n < kExpandedValue / 8; ++n) {
      const float2 v = *reinterpret_cast<const float2*>(from + n * 8);
      sums.o[n][2 * r] = sums.o[n][2 * r] * mine + v.x * its;
      sums.o[n][2 * r + 1] = sums.o[n][2 * r + 1] * mine + v.y * its;
    }
  }
}

__device__ __forceinline__ void load_state(const ExpandedParams& p, const ExpandedWork& w, int row,
                                           ExpandedSums& sums) {
  const int t2 = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (row + 8 * r >= w.n_tokens) continue;
    const int64_t at = int64_t{w.first_token + row + 8 * r} * p.H + w.head;
    const float2 stat = p.stats[at];
    sums.max[r] = stat.x;
    sums.sum[r] = t2 == 0 ? stat.y : 0;
    const float* from = p.state + at * kExpandedValue + t2;
#pragma unroll
    for (int n = 0; n < kExpandedValue / 8; ++n) {
      const float2 v = *reinterpret_cast<const float2*>(from + n * 8);
      sums.o[n][2 * r] = v.x;
      sums.o[n][2 * r + 1] = v.y;
    }
  }
}

// Where the queries have seen all their keys the result, else what the next part goes on with.
__device__ __forceinline__ void store_sums(const ExpandedParams& p, const ExpandedWork& w, int row,
                                           const ExpandedSums& sums) {
  const int t2 = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (row + 8 * r >= w.n_tokens) continue;
    const int64_t token = w.first_token + row + 8 * r, at = token * p.H + w.head;
    if (w.ends) {
      const float scale = 1 / sums.sum[r];
      bf16* to = p.out.row(token, w.head) + t2;
#pragma unroll
      for (int n = 0; n < kExpandedValue / 8; ++n)
        *reinterpret_cast<uint32_t*>(to + n * 8) =
            pack_bf16(sums.o[n][2 * r] * scale, sums.o[n][2 * r + 1] * scale);
    } else {
      float* to = p.state + at * kExpandedValue + t2;
#pragma unroll
      for (int n = 0; n < kExpandedValue / 8; ++n)
        *reinterpret_cast<float2*>(to + n * 8) =
            make_float2(sums.o[n][2 * r], sums.o[n][2 * r + 1]);
      if (t2 == 0) p.stats[at] = make_float2(sums.max[r], sums.sum[r]);
    }
  }
}

// All threads of a group; barrier 0 is that of the block.
__device__ __forceinline__ void meet_group(int group) {
  asm volatile("bar.sync %0, %1;" ::"r"(group + 1), "n"(kGroupThreads) : "memory");
}

static __global__ __launch_bounds__(kExpandedThreads,
                                    1) void expanded_attention_kernel(const ExpandedParams p) {
  extern __shared__ uint4 shared[];
  auto& ring = *reinterpret_cast<ExpandedRing*>(shared);
  const ExpandedWork w = expanded_work(p);
  wait_for_previous_kernel();
  if (w.n_tiles == 0) return;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int group = warp / 4, first = warp % 4 * 16;  // of the warp's queries
  const int row = first + lane / 4;

  if (group < w.n_tiles) copy_expanded_tile(p, w, group, ring[group][0]);
  commit_copies();
  stage_queries(p, w, ring[0][1]);
  __syncthreads();
  uint32_t q[kExpandedKey / 16][4];
#pragma unroll
  for (int k = 0; k < kExpandedKey / 16; ++k)
    load_matrices(q[k], &ring[0][1].keys[first + lane % 16][(k * 2 + lane / 16) ^ (lane & 7)]);
  __syncthreads();  // the queries' place is the even tiles' from now on

  // The last key that rows g and g + 8 see, counted from this part's first.
  int last_key[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int token = w.first_token + min(row + 8 * r, w.n_tokens - 1);
    last_key[r] = p.batch.positions[token] - w.first_position;
  }
  const int seen_by_all = p.batch.positions[w.first_token] - w.first_position;

  ExpandedSums sums;
  if (group == 0 && w.begun) load_state(p, w, row, sums);
  int stage = 0;
#pragma unroll 1
  for (int i = group; i < w.n_tiles; i += kExpandedGroups, stage ^= 1) {
    if (i + kExpandedGroups < w.n_tiles)
      copy_expanded_tile(p, w, i + kExpandedGroups, ring[group][stage ^ 1]);
    commit_copies();
    wait_for_copies<1>();
    meet_group(group);  // the tile is there for all
    const int first_key = i * kKeyTile;
    const int last[2] = {last_key[0] - first_key, last_key[1] - first_key};
    attend_tile(ring[group][stage], q, p.scale_log2, last, first_key + kKeyTile - 1 <= seen_by_all,
                sums);
    meet_group(group);  // all are done with it
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    sums.sum[r] += __shfl_xor_sync(0xffffffffu, sums.sum[r], 1);
    sums.sum[r] += __shfl_xor_sync(0xffffffffu, sums.sum[r], 2);
  }
  wait_for_copies<0>();
  __syncthreads();
  auto* merged = reinterpret_cast<float*>(shared);
  if (group == 1) leave_sums(sums, row, merged);
  __syncthreads();
  if (group == 1) return;
  take_sums(sums, row, merged);
  store_sums(p, w, row, sums);
}

}  // namespace dsr::cuda
