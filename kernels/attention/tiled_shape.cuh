// What tiled_attention.cuh is given: the shapes that it is made for, and a block's work.
#pragma once

#include "attention/paged.cuh"

namespace dsr::cuda {

// MLA: one row per token holds the key [latent | rope]; its first part is the value.
struct MlaShape {
  static constexpr int kKeyWidth = 576, kValueWidth = 512, kTile = 32, kStages = 3;
  static constexpr bool kValuesInKeys = true, kRotateQuery = false, kFp8 = false;
};
struct GqaShape {
  static constexpr int kKeyWidth = 128, kValueWidth = 128, kTile = 64, kStages = 2;
  static constexpr bool kValuesInKeys = false, kRotateQuery = true, kFp8 = false;
};
struct MlaFp8Shape : MlaShape {
  static constexpr int kStages = 2;
  static constexpr bool kFp8 = true;
};
struct GqaFp8Shape : GqaShape {
  static constexpr bool kFp8 = true;
};

struct TiledParams {
  HeadRows out;      // [T, H, kValueWidth]
  HeadRows q;        // [T, H, kKeyWidth]
  const float* cos;  // [P, kKeyWidth / 2], where the query is rotated here
  const float* sin;
  const std::byte* pages;
  int64_t page_bytes;
  PagedBatch batch;
  Partials partials;
  int heads_per_kv_head;
  float scale_log2;           // softmax_scale * log2(e)
  int64_t scales_at = 0;      // GQA as fp8: from a half page to its scales
  bool prefill_only = false;  // another kernel takes the decode rows
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
  static constexpr int kKeyParts = kTiledWarps / kTokenTiles;  // of the width, in the scores
  static constexpr int kScoreElements = kKeyParts * kRows * kScoreStride;
  static constexpr int kKeySteps = Shape::kKeyWidth / 16 / kKeyParts;  // of k16, per warp
  static constexpr int kValueSteps = Shape::kTile / 16;
  static constexpr int kColumns = Shape::kValueWidth / kTiledWarps;  // per warp
  static constexpr int64_t kSharedBytes =
      int64_t{Shape::kStages} * kStageElements * 2 + int64_t{2} * kScoreElements * 4;
  static_assert(kTokenTiles * kKeyParts == kTiledWarps, "every warp has a part of the scores");
  static_assert(Shape::kKeyWidth % (32 * kKeyParts) == 0, "ldmatrix.x4 takes two k16 steps");
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

}  // namespace dsr::cuda
