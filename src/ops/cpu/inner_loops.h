// The inner loops of the cpu backend: one table of them for each level of instructions.
//
// A dot product means the same everywhere. Lane j of 16 adds up the products k = j, j + 16, ... in
// that order with fused multiply-adds in float32, missing ones at the end being 0 * 0; then
//   l8[i] = l[i] + l[i + 8],  l4[i] = l8[i] + l8[i + 4],  l2[i] = l4[i] + l4[i + 2],  l2[0] + l2[1]
// A weight is the float32 that its code times its scale rounds to. So the bits do not depend on the
// level, on how many rows or tokens are computed together, or on who computes them.
#pragma once

#include <cstdint>

#include "device/cpu_context.h"

namespace dsr::cpu {

inline constexpr int64_t kLanes = 16;

// dots_*: what they compute at once.
inline constexpr int64_t kDotRows = 4;
inline constexpr int64_t kDotTokens = 6;

// tile: rows and tokens of a tile, and the columns of it that are held as float32.
inline constexpr int64_t kTileRows = 32;
inline constexpr int64_t kTileTokens = 48;
inline constexpr int64_t kTileColumns = 512;

struct DotArgs {
  const void* rows[kDotRows];  // of weights, one may stand in several places
  const float* x[kDotTokens];  // of activations
  int64_t tokens;              // 1..kDotTokens
  int64_t columns;             // K
  // e4m3: the scale of block b of columns is scales[b], for all rows; blocks are a multiple of 16.
  const float* scales;
  int64_t block_columns;
  float* out;  // [kDotRows][kDotTokens]
};

struct InnerLoops {
  // out[r][t] = rows[r] . x[t], for weights read once as they are stored. A NaN among e4m3 codes
  // goes unnoticed: see has_e4m3_nan.
  void (*dots_e4m3)(const DotArgs& a);
  void (*dots_bf16)(const DotArgs& a);
  void (*dots_f32)(const DotArgs& a);

  // Columns [first, first + n) of a row as float32; first is a multiple of 16.
  void (*decode_e4m3)(const uint8_t* row, const float* scales, int64_t block_columns, int64_t first,
                      int64_t n, float* out);
  void (*decode_bf16)(const uint16_t* row, int64_t n, float* out);
  bool (*has_e4m3_nan)(const uint8_t* codes, int64_t n);

  // Adds to the 16 lanes of every (row, token): w [rows][kTileColumns], x [tokens][kTileColumns],
  // lanes [rows][kTileTokens][16]; rows a multiple of 4, tokens of 6, columns of 16.
  void (*tile)(const float* w, const float* x, int64_t rows, int64_t tokens, int64_t columns,
               float* lanes);
  // out[i] = the sum of 16 lanes.
  void (*reduce)(const float* lanes, int64_t n, float* out);

  // sum[q][c] = fma(p[q][s], rows[s][c], sum[q][c]) for s = 0, 1, ... n - 1
  struct Weighted {
    const float* p;
    int64_t p_stride, queries;
    const float* rows;
    int64_t row_stride, n;
    float* sum;
    int64_t sum_stride, columns;
  };
  void (*add_weighted_rows)(const Weighted& a);
};

const InnerLoops& inner_loops_portable();
const InnerLoops& inner_loops_avx2();
const InnerLoops& inner_loops_avx512();
const InnerLoops& inner_loops(CpuLevel level);

}  // namespace dsr::cpu
