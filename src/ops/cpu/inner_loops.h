// The inner loops of the cpu backend: one table of them for each level of instructions.
//
// A dot product means the same everywhere. Lane j of 16 adds up the products k = j, j + 16, ... in
// that order with fused multiply-adds in float32, missing ones at the end being 0 * 0; then
//   l8[i] = l[i] + l[i + 8],  l4[i] = l8[i] + l8[i + 4],  l2[i] = l4[i] + l4[i + 2],  l2[0] + l2[1]
// The scale of an e4m3 weight goes to the other side: code . round(scale * x), where code is exact
// and scale * x is rounded to float32. One scale serves a block of rows, so the activations are
// scaled once for all of them, and a weight costs no multiplication. So the bits do not depend on
// the level, on how many rows or tokens are computed together, or on who computes them.
//
// e^x, with x kept within [-86.6, 88], is 2^n times a polynomial of r = x - n ln 2, |r| <= ln 2 /
// 2: the series up to r^7 / 7!, what is left out being less than 2^-27 of it. So it is off by an
// ulp or two, and by 2^-124 where the true value is smaller than that.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/cpu_context.h"

namespace dsr::cpu {

inline constexpr int64_t kLanes = 16;

// dots_*: streams of rows that they read at once, and the most tokens.
inline constexpr int64_t kDotRows = 4;
inline constexpr int64_t kDotTokens = 12;

// Tiles: rows and tokens of one, and what of its weights is held for the products: a group of rows,
// some columns of them at a time. Of tokens and columns the most; see TileSize.
inline constexpr int64_t kTileRows = 128;
inline constexpr int64_t kTileTokens = 84;
inline constexpr int64_t kGroupRows = 8;
inline constexpr int64_t kGroupColumns = 1024;
inline constexpr int64_t kTileValues = kTileTokens * 3 * 704;  // of activations at once, the most

// What the caches of a level's machines hold: so many columns of a group in the first one, beside
// the activations that they meet; `panels` times as many of all tokens in the second one.
struct TileSize {
  int64_t tokens, columns, panels;
};

// What a tile multiplies lies in the order in which it is read. Of a row and of a token, columns
// make units of 64 bytes (16 of float32, 32 of bf16), and these `parts` pieces. A run holds a part
// of all columns of `rows` rows or of `tokens` tokens: a piece of each of them, and so on with the
// next unit. Runs follow one another, all those of a part before the next part's. Rows may be
// narrow where a level says so: 16 columns as bf16 in 32 bytes, column j + 8 above column j, of
// which every part takes its half.
struct TileOrder {
  int64_t parts, rows, tokens;
  static constexpr int64_t kUnitBytes = 64;
  bool operator==(const TileOrder&) const = default;
};

// Where the pieces of one row's or one token's units are.
struct UnitPlaces {
  std::byte* first;
  int64_t step_bytes;  // from a unit to the next
  int64_t part_bytes;  // from a part of it to the next
};

// Tokens of the next run where `left` are left: two and two rather than three and one, which would
// wait for its sums. Inlined, as each level has to have its own code: see loops.h.
[[gnu::always_inline]] constexpr int64_t tokens_at_once(int64_t most, int64_t left) {
  if (left == most + 1 && most > 2) return most - 1;
  return left < most ? left : most;
}

// Of row r of a group, which is not narrow, or of token t of `tokens`, whose columns are `units`
// units.
inline UnitPlaces row_places(const TileOrder& order, void* w, int64_t r, int64_t units) {
  const int64_t piece = TileOrder::kUnitBytes / order.parts, run = r / order.rows * order.rows;
  return {static_cast<std::byte*>(w) + (run * units + (r - run)) * piece, order.rows * piece,
          kGroupRows * units * piece};
}
inline UnitPlaces token_places(const TileOrder& order, void* x, int64_t t, int64_t tokens,
                               int64_t units) {
  const int64_t piece = TileOrder::kUnitBytes / order.parts;
  int64_t run = 0, n = 0;
  while (run + (n = tokens_at_once(order.tokens, tokens - run)) <= t) run += n;
  return {static_cast<std::byte*>(x) + (run * units + (t - run)) * piece, n * piece,
          tokens * units * piece};
}

struct DotArgs {
  const void* rows[kDotRows];  // of weights: the first of each stream
  const void* next[kDotRows];  // what is read after the streams: asked for towards their end
  int64_t row_bytes;           // from one row of a stream to the next
  int64_t steps;               // rows of a stream
  const float* x[kDotTokens];  // of activations; e4m3: scaled
  int64_t tokens;              // 1..kDotTokens
  int64_t columns;             // K
  float* out[kDotRows];        // of each stream: [step * row_stride + token * token_stride]
  int64_t row_stride, token_stride;
};

// For the loop with as many tokens and columns.
struct ToRaise {
  const float* const* x;  // of activations, [tokens]
  const float* scales;    // above 0
  int64_t block_columns, columns;
  int64_t tokens;
  float* all;      // x[t] of DotArgs is all + t * stride; at a multiple of 64 bytes
  int64_t stride;  // a multiple of 16, not below `columns`
};

// Rows of weights for a tile.
struct RowsToPack {
  const void* first;
  int64_t row_bytes;  // from one to the next
  int64_t rows, columns;
  void* w;           // what follows the last column in its unit becomes 0
  const void* next;  // rows that will be wanted after these, as far apart: asked for meanwhile
};

// Activations that a tile scales itself as InnerLoops::scale does, and rounds where it is of bf16,
// with the first rows of a group: while it multiplies it waits less for what it reads and writes.
struct RawActivations {
  const float* const* x;  // [tokens]; nullptr: they are there
  const float* scales;
  int64_t block_columns;  // a multiple of 16, or of 32
  int64_t first;          // of x, the first column to take
};

// A group of rows with the tokens of a tile. Value: float, a lane taking every 16th column; or
// bf16, a lane taking two columns at a time, 2 j and 2 j + 1 of 32.
template <typename Value>
struct TileArgsOf {
  const void* w;       // kGroupRows rows and
  Value* x;            // `tokens` tokens, in the order of the loop
  RawActivations raw;  // they are multiplied and left in x; bf16: see FastLoops
  int64_t tokens;
  int64_t columns;  // a multiple of 16, or of 32
  bool begin;       // the lanes are 0 so far, whatever they hold
  float* lanes;     // 16 of every row and token; with `sums`, something else afterwards
  float* sums;      // of the lanes: [t * sums_stride + row]; nullptr: more columns follow
  int64_t sums_stride;
};
using TileArgs = TileArgsOf<float>;
using FastTileArgs = TileArgsOf<uint16_t>;

struct TileLoop {
  TileOrder order;
  void (*run)(const TileArgs& a);
};

inline constexpr int64_t kAddColumns = 64;  // add_*_rows: what they take at once

// Of fast math.
struct FastLoops {
  TileOrder order;
  void (*tile)(const FastTileArgs& a);
  // To the nearest bf16, even on a tie.
  void (*round_bf16)(const float* x, int64_t n, uint16_t* out);
  bool takes_raw;  // activations, in the tile
};

struct InnerLoops {
  // out = row . x for weights read once as they are stored; of e4m3 the 2^-8 of their values. A NaN
  // among e4m3 codes goes unnoticed: see has_e4m3_nan.
  void (*dots_e4m3)(const DotArgs& a);
  void (*dots_bf16)(const DotArgs& a);
  void (*dots_f32)(const DotArgs& a);

  // out[i] = x[i] * (2^8 scales[(first + i) / block_columns]); `out` may be x.
  void (*scale)(const float* x, const float* scales, int64_t block_columns, int64_t first,
                int64_t n, float* out);
  // Weights as float32; of e4m3 the 2^-8 of them.
  void (*decode_e4m3)(const uint8_t* codes, int64_t n, float* out);
  void (*decode_bf16)(const uint16_t* row, int64_t n, float* out);
  // The same to a tile in the order of `tile`.
  void (*pack_e4m3)(const RowsToPack& a);
  void (*pack_bf16)(const RowsToPack& a);
  // As bf16, which is exact, in that of fast math.
  void (*pack_e4m3_as_bf16)(const RowsToPack& a);
  // Whole units that are there already, of tokens or of rows that are not narrow.
  void (*pack_units)(const void* from, int64_t units, const UnitPlaces& out);
  bool (*has_e4m3_nan)(const uint8_t* codes, int64_t n);

  // dots_e4m3 by a faster way, where the level has one: of activations that raise() scaled, to
  // places of its own (raised_dots.h). Bit for bit the same.
  struct Raised {
    int64_t tokens = 0;  // the most; 0 too where the CPU is slow with subnormal numbers
    // False: this way does not serve, for an activation is too large or NaN, for how many columns
    // there are or share a scale, or as subnormal numbers count as zero in this thread.
    bool (*raise)(const ToRaise& a) = nullptr;
    void (*dots_e4m3)(const DotArgs& a) = nullptr;
  };
  Raised raised;

  TileSize tile_size;
  // Adds the products of a group to the 16 lanes of every (row, token). Where it has all columns
  // the lanes stay in registers, with AVX2 half of them.
  TileLoop tile;
  TileLoop f32_tile;  // for rows of any float32 values
  FastLoops fast;     // with float32 instructions

  // out[i] = e^(x[i] - minus); `out` may be x.
  void (*exp_minus)(const float* x, float minus, int64_t n, float* out);
  // out[i] = gate[i] / (1 + e^-gate[i]) * up[i]
  void (*silu_times)(const float* gate, const float* up, int64_t n, float* out);

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

  // sum[t][c] = fma(x[block of c][t][s], rows[s][c], sum[t][c]) for s = 0, 1, ... n - 1, of weights
  // as they are stored; of e4m3 the 2^-8 of their values.
  struct StoredRows {
    const void* rows;
    int64_t row_bytes, n;
    int64_t columns, block_columns;  // multiples of kAddColumns
    const float* x;                  // [block of columns][tokens][n]
    int64_t tokens;
    float* sum;
    int64_t sum_stride;
    int64_t near, far;  // bytes from a row to what is asked for into the first- and the
                        // second-level cache while it is added
  };
  void (*add_e4m3_rows)(const StoredRows& a);
  void (*add_bf16_rows)(const StoredRows& a);
};

const InnerLoops& inner_loops_portable();
const InnerLoops& inner_loops_avx2();
const InnerLoops& inner_loops_avx512();
const InnerLoops& inner_loops_avx512vbmi();
const InnerLoops& inner_loops(CpuLevel level);
// With the instructions that are made for it. Where has_bf16_dots() only.
const FastLoops& fast_loops_avx512bf16();

}  // namespace dsr::cpu
