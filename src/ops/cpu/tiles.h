// How the rows of weights are shared out among threads.
#pragma once

#include <algorithm>
#include <vector>

#include "ops/cpu/dots.h"

namespace dsr::cpu {

// Multiply-adds that are worth a thread: some 30 us of work. To wake one that sleeps takes about as
// long on a virtual machine.
inline constexpr int64_t kGrainProducts = 1 << 19;

// How many pieces of `products` multiply-adds each are worth a thread.
inline int64_t grain(int64_t products) {
  return std::max<int64_t>(1, ceil_div(kGrainProducts, std::max<int64_t>(1, products)));
}

// Rows are shared out in units of this.
inline constexpr int64_t kUnitRows = 32;
static_assert(kTileRows % kUnitRows == 0);
inline int64_t units_of(int64_t rows) { return ceil_div(rows, kUnitRows); }

// Calls each(first_row, rows) for units [begin, end) of `rows` rows, as many of them together as
// make a tile, which begins at a multiple of its size but for the first.
template <typename Each>
void for_each_run(int64_t begin, int64_t end, int64_t rows, const Each& each) {
  const int64_t stop = std::min(rows, end * kUnitRows);
  for (int64_t row = begin * kUnitRows; row < stop;) {
    const int64_t next = std::min(stop, round_up(row + 1, kTileRows));
    each(row, next - row);
    row = next;
  }
}

// Up to kTileRows rows of one segment.
struct RowTile {
  const WeightSegment* segment;
  int64_t first_row;  // in the segment
  int64_t row;        // in the weight
  int64_t rows;
};

// How many units a thread that is done takes over at once: a whole tile where many tokens share the
// cost of making one.
inline int64_t units_to_take(int64_t tokens) {
  return tokens > kDotTokens ? kTileRows / kUnitRows : 1;
}

// Calls each(first, count) for `tokens` tokens in parts of about the same size that fit a tile, all
// but the last of as many as are multiplied at once, or a multiple of it.
template <typename Each>
void for_each_token_part(const CpuContext& cpu, int64_t tokens, const Each& each) {
  const InnerLoops& loops = inner_loops(cpu.level());
  const int64_t parts = ceil_div(tokens, loops.tile_size.tokens);
  for (int64_t i = 0, first = 0; i < parts; ++i) {
    const int64_t end =
        std::min(tokens, round_up(tokens * (i + 1) / parts, loops.tile.order.tokens));
    each(first, end - first);
    first = end;
  }
}

// Calls each(tile, first, count) for all rows of `w` with all tokens, every thread contiguous parts
// of the rows: all of these with a part of the tokens, whose activations stay in the second-level
// cache, before the next.
template <typename Each>
void for_each_tile(CpuContext& cpu, const Weight& w, int64_t tokens, int64_t products_per_weight,
                   const Each& each) {
  int64_t n = 0;
  for (const WeightSegment& s : w.segments) n += units_of(s.data.shape[0]);
  const auto tiles = [&](int64_t begin, int64_t end, const auto& each_tile) {
    int64_t unit = 0, row = 0;
    for (const WeightSegment& s : w.segments) {
      const int64_t N = s.data.shape[0], here = units_of(N);
      for_each_run(std::max<int64_t>(0, begin - unit), std::min(here, end - unit), N,
                   [&](int64_t first, int64_t rows) {
                     each_tile(RowTile{&s, first, row + first, rows});
                   });
      unit += here;
      row += N;
    }
  };
  const auto part = [&](int64_t begin, int64_t end) {
    for_each_token_part(cpu, tokens, [&](int64_t first, int64_t count) {
      tiles(begin, end, [&](const RowTile& tile) { each(tile, first, count); });
    });
  };
  cpu.parallel(n, grain(kUnitRows * w.columns() * tokens * products_per_weight), part,
               units_to_take(tokens * products_per_weight));
}

inline std::vector<const float*> row_pointers(const Tensor& x) {
  std::vector<const float*> out(static_cast<size_t>(x.shape[0]));
  for (size_t t = 0; t < out.size(); ++t) out[t] = x.ptr<float>(static_cast<int64_t>(t));
  return out;
}

// out[t * token_stride + r] = silu(gate[r] . x[t]) * (up[r] . x[t])
struct GatedTile {
  const WeightSegment& gate;
  const WeightSegment& up;
  const QuantScheme& quant;
  int64_t first_row, rows;
  const float* const* x;
  int64_t tokens;
  float* out;
  int64_t token_stride;
  const void* next;  // see Dots: after the rows of `up`
};
void gated_tile(CpuContext& cpu, const GatedTile& a);

}  // namespace dsr::cpu
