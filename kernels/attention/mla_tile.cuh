// A page of MLA's rows as bf16 in shared memory, perhaps made from one of fp8, and what 16 heads
// and sixteen warps do with it: mla_decode_sm90.cu and mla_page.cuh, which so give the same bits.
//
// Tile      eight copies of 8 rows, each 16 bytes further than they are in the page: the eight rows
//           that ldmatrix reads at once are of eight copies, hence in different banks. So place i
//           of a tile is token 8 (i % 8) + i / 8.
// Mapping   scores: a warp takes 16 of the tokens and a quarter of the width, by mma.sync. Softmax:
//           a head a warp. Values: 32 of the columns a warp; the sum of the weights is one more
//           column, of ones. Between these all warps meet.
// Rounding  p to bf16; sums in fp32. The sum of p is that of the rounded ones.
#pragma once

#include "attention/mla_codes.cuh"
#include "attention/mla_merge.cuh"
#include "attention/tiled_attention.cuh"
#include "common/e4m3.cuh"

namespace dsr::cuda {

constexpr int kMlaTileWarps = 16, kMlaTileThreads = 32 * kMlaTileWarps;
constexpr int kMlaHeads = 16;  // of a block: the M of mma.m16n8k16
static_assert(kMlaHeads == kMlaTileWarps, "a warp for the softmax of each head");
constexpr int kMlaTile = static_cast<int>(kPageTokens);
constexpr int kMlaKeyWidth = MlaShape::kKeyWidth, kMlaValueWidth = MlaShape::kValueWidth;
constexpr int kMlaRowBytes = kMlaKeyWidth * 2, kMlaRun = 8, kMlaRuns = kMlaTile / kMlaRun;
constexpr int kMlaRunPitch = kMlaRun * kMlaRowBytes + 16;
static_assert(kMlaRun == 8 && kMlaRuns == 8, "as places and tokens are related");
constexpr int kMlaQuarters = 4;                                 // of the width
constexpr int kMlaKeySteps = kMlaKeyWidth / 16 / kMlaQuarters;  // of k16, of a warp
static_assert(kMlaTile / 16 * kMlaQuarters == kMlaTileWarps, "each has 16 tokens and a quarter");
constexpr int kMlaColumns = kMlaValueWidth / kMlaTileWarps, kMlaColumnTiles = kMlaColumns / 8;

// What these kernels are given.
struct MlaDecode {
  HeadRows out;  // [T, H, kMlaValueWidth]
  HeadRows q;    // [T, H, kMlaKeyWidth]
  const std::byte* pages;
  DecodeRows rows;
  MlaParts parts;
  float scale_log2;  // softmax_scale * log2(e)
};

struct MlaTile {
  alignas(128) std::byte runs[kMlaRuns * kMlaRunPitch];

  __device__ __forceinline__ std::byte* row(int token) {
    return runs + token / kMlaRun * kMlaRunPitch + token % kMlaRun * kMlaRowBytes;
  }
};
// A page of fp8 as it lies in the cache.
struct MlaCodePage {
  alignas(128) std::byte rows[kMlaTile * MlaCodes::kRowBytes];

  __device__ __forceinline__ std::byte* row(int token) {
    return rows + token * MlaCodes::kRowBytes;
  }
};
struct MlaTileWork {
  alignas(16) bf16 query[kMlaHeads][kMlaKeyWidth + 8];
  // In places: sums over a quarter; exp2(score - max), zeros past the end.
  float scores[kMlaQuarters][kMlaHeads][kMlaTile + 8];
  alignas(16) bf16 weights[kMlaHeads][kMlaTile + 8];
};

#if __CUDA_ARCH__ >= 900

// Some rows of a page. What no other group of heads reads is the first to leave the L2.
__device__ __forceinline__ void copy_page_rows(void* shared, const void* global, int n_bytes,
                                               uint64_t* barrier) {
  if (gridDim.x == 1)
    copy_bulk_evict_first(shared, global, static_cast<uint32_t>(n_bytes), barrier);
  else
    copy_bulk(shared, global, static_cast<uint32_t>(n_bytes), barrier);
}

// By a warp: the values of tokens first, first + step, ... become zero, as their weights are.
__device__ __forceinline__ void clear_values(MlaTile& tile, int first, int step, int lane) {
  static_assert(kMlaValueWidth * 2 == 2 * 32 * 16, "two pieces a lane");
#pragma unroll 1
  for (int i = first; i < kMlaTile; i += step) {
    auto* row = reinterpret_cast<uint4*>(tile.row(i));
    row[lane] = row[lane + 32] = make_uint4(0, 0, 0, 0);
  }
}

// By all warps: tokens [first, end) of a page of codes join a tile.
__device__ __forceinline__ void expand_codes(MlaCodePage& page, int first, int end, MlaTile& tile,
                                             int warp, int lane) {
#pragma unroll
  for (int i = 0; i < kMlaTile / kMlaTileWarps; ++i) {
    const int token = warp + i * kMlaTileWarps;
    if (token < first || token >= end) continue;
    const std::byte* row = page.row(token);
    const float scale = *reinterpret_cast<const float*>(row + MlaCodes::kScalesAt + lane / 8 * 4);
    uint4 v[2];
    bf16_from_e4m3(*reinterpret_cast<const uint4*>(row + lane * 16), scale, v);
    // Eight lanes at a time write to different banks.
    auto* to = reinterpret_cast<uint4*>(tile.row(token) + lane * 32);
    const int half = lane / 4 % 2;
    to[half] = half == 0 ? v[0] : v[1];
    to[1 - half] = half == 0 ? v[1] : v[0];
  }
  static_assert(kMlaTile * MlaCodes::kRopePieces == kMlaTileThreads);
  const int i = warp * 32 + lane, token = i / MlaCodes::kRopePieces;
  const int at = i % MlaCodes::kRopePieces * 16;
  if (token >= first && token < end)
    *reinterpret_cast<uint4*>(tile.row(token) + kMlaValueWidth * 2 + at) =
        *reinterpret_cast<const uint4*>(page.row(token) + MlaCodes::kRopeAt + at);
}

// Where this lane's row of an ldmatrix lies in a tile, that of place `lane % 8`, from place 0.
__device__ __forceinline__ int mla_lane_run(int lane) { return lane % 8 * kMlaRunPitch; }
// Places come in eights; further by so many of them.
__device__ __forceinline__ int mla_eights(int n) { return n * kMlaRowBytes; }

// Where a lane's second operands of the scores begin: 16 places over a quarter of the width.
__device__ __forceinline__ const std::byte* first_key(const MlaTile& tile, int warp, int lane) {
  return tile.runs + mla_lane_run(lane) + mla_eights(warp % 4 * 2 + lane / 16) +
         warp / 4 * kMlaKeySteps * 32 + lane / 8 % 2 * 16;
}

// scores[kMlaHeads, kMlaTile]: this warp's 16 places over its quarter of the width, in two chains
// for each 8 of them. `keys(k, b)` gives the second operand of step k.
template <typename Keys>
__device__ __forceinline__ void score_tile(const Keys& keys, MlaTileWork& work, int warp,
                                           int lane) {
  const int g = lane / 4, t2 = lane % 4 * 2, eight = warp % 4 * 2, quarter = warp / 4;
  const bf16* q = &work.query[lane % 16][quarter * kMlaKeySteps * 16 + lane / 16 * 8];
  float s[2][2][4] = {};  // [chain][8 places]
#pragma unroll
  for (int k = 0; k < kMlaKeySteps; ++k) {
    uint32_t a[4], b[4];
    load_matrices(a, q + k * 16);
    keys(k, b);
    mma_bf16(s[k % 2][0], a, b[0], b[1]);
    mma_bf16(s[k % 2][1], a, b[2], b[3]);
  }
  auto& mine = work.scores[quarter];
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const float* even = s[0][j];
    const float* odd = s[1][j];
    const int place = (eight + j) * 8 + t2;
    *reinterpret_cast<float2*>(&mine[g][place]) = make_float2(even[0] + odd[0], even[1] + odd[1]);
    *reinterpret_cast<float2*>(&mine[g + 8][place]) =
        make_float2(even[2] + odd[2], even[3] + odd[3]);
  }
}

// The softmax of this warp's head, two neighbouring places a lane.
struct MlaLogits {
  float2 quarters[kMlaQuarters];

  __device__ __forceinline__ void load(const MlaTileWork& work, int warp, int lane) {
#pragma unroll
    for (int i = 0; i < kMlaQuarters; ++i)
      quarters[i] = *reinterpret_cast<const float2*>(&work.scores[i][warp][2 * lane]);
  }
  // Stores weights relative to 2^max, where `max` is whole and at least `before`. Returns it.
  __device__ __forceinline__ float weigh(MlaTileWork& work, int n_tokens, float scale_log2,
                                         float before, int warp, int lane) const {
    const int place = 2 * lane, token = place % 8 * 8 + place / 8;
    const auto& s = quarters;
    const float x = (s[0].x + s[1].x) + (s[2].x + s[3].x);
    const float y = (s[0].y + s[1].y) + (s[2].y + s[3].y);
    const float2 v = {token < n_tokens ? x * scale_log2 : -INFINITY,
                      token + 8 < n_tokens ? y * scale_log2 : -INFINITY};
    float max = fmaxf(v.x, v.y);
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
      max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, offset));
    max = fmaxf(before, ceilf(max));
    *reinterpret_cast<uint32_t*>(&work.weights[warp][place]) =
        pack_bf16(exp2f(v.x - max), exp2f(v.y - max));
    return max;
  }
};

// Of p v, and of p: a warp's columns, in tiles of 8.
template <int kTiles>
using MlaSums = float[kTiles + 1][4];

// Where a lane's second operands of the values begin, from `column` on.
__device__ __forceinline__ const std::byte* first_value(const MlaTile& tile, int column, int lane) {
  return tile.runs + mla_lane_run(lane) + mla_eights(lane / 8 % 2) + column * 2 + lane / 16 * 16;
}

// sums += the tile's, that of p only if it is wanted. values: first_value().
template <int kTiles>
__device__ __forceinline__ void add_tile(const std::byte* values, const MlaTileWork& work,
                                         bool wants_sum, MlaSums<kTiles>& sums, int lane) {
  static_assert(kTiles % 2 == 0, "an ldmatrix has two of them");
  constexpr uint32_t kOnes = 0x3f803f80;
#pragma unroll
  for (int k = 0; k < kMlaTile / 16; ++k) {
    uint32_t a[4];
    load_matrices(a, &work.weights[lane % 16][k * 16 + lane / 16 * 8]);
#pragma unroll
    for (int n = 0; n < kTiles / 2; ++n) {
      uint32_t b[4];
      load_matrices_transposed(b, values + mla_eights(2 * k) + n * 32);
      mma_bf16(sums[2 * n], a, b[0], b[1]);
      mma_bf16(sums[2 * n + 1], a, b[2], b[3]);
    }
    if (wants_sum) mma_bf16(sums[kTiles], a, kOnes, kOnes);
  }
}

#endif

}  // namespace dsr::cuda
