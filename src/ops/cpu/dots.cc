#include "ops/cpu/dots.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

namespace dsr::cpu {
namespace {

// From this many tokens on, weights are turned into float32 once for all: below, decoding them
// again for each kDotTokens is at most twice the work.
constexpr int64_t kTileFrom = 13;

const std::byte* row_at(const WeightSegment& s, int64_t row) {
  return static_cast<const std::byte*>(s.data.at(row));
}

// The inner loops take one scale to 16 columns.
bool has_simple_blocks(const QuantScheme& q) { return q.block_columns % kLanes == 0; }

// The scales of a row's blocks as aligned float32.
class RowScales {
 public:
  RowScales(const WeightSegment& s, const QuantScheme& q, int64_t row) {
    const int64_t n = s.scales.shape[1];
    float* to = here_;
    if (n > kHere) {
      more_.resize(static_cast<size_t>(n));
      to = more_.data();
    }
    to_f32(s.scales.dtype, s.scales.at(row / q.block_rows), to, n);
    values_ = to;
  }
  RowScales(const RowScales&) = delete;
  const float* values() const { return values_; }

 private:
  static constexpr int64_t kHere = 192;  // 24576 columns in blocks of 128
  float here_[kHere];
  std::vector<float> more_;
  const float* values_;
};

// A format whose rows the inner loops read as they are stored.
bool is_read_in_place(const Dots& d) {
  switch (d.segment.data.dtype) {
    case DType::kBF16:
    case DType::kF32:
      return true;
    case DType::kF8E4M3:
      // One scale row for all rows of a call.
      return has_simple_blocks(d.quant) && d.quant.block_rows % kDotRows == 0 &&
             d.first_row % kDotRows == 0;
    default:
      return false;
  }
}

void call(const InnerLoops& loops, DType dtype, const DotArgs& a) {
  if (dtype == DType::kF8E4M3) return loops.dots_e4m3(a);
  if (dtype == DType::kBF16) return loops.dots_bf16(a);
  loops.dots_f32(a);
}

// Up to kDotRows rows with all tokens.
void few_rows(const InnerLoops& loops, const Dots& d, int64_t row, int64_t n) {
  const DType dtype = d.segment.data.dtype;
  float sums[kDotRows * kDotTokens];
  DotArgs a{};
  for (int64_t r = 0; r < kDotRows; ++r)
    a.rows[r] = row_at(d.segment, d.first_row + row + std::min(r, n - 1));
  a.columns = d.segment.data.shape[1];
  a.block_columns = d.quant.block_columns;
  a.out = sums;
  const auto run = [&] {
    const int64_t calls = ceil_div(d.tokens, kDotTokens);
    for (int64_t i = 0; i < calls; ++i) {  // in parts of about the same size
      const int64_t first = d.tokens * i / calls, end = d.tokens * (i + 1) / calls;
      a.tokens = end - first;
      std::copy(d.x + first, d.x + end, a.x);
      call(loops, dtype, a);
      for (int64_t r = 0; r < n; ++r)
        for (int64_t t = first; t < end; ++t)
          d.out[(row + r) * d.row_stride + t * d.token_stride] = sums[r * kDotTokens + t - first];
    }
  };
  if (dtype != DType::kF8E4M3) return run();
  const RowScales scales(d.segment, d.quant, d.first_row + row);
  a.scales = scales.values();
  run();
  for (int64_t r = 0; r < n; ++r) {
    if (!loops.has_e4m3_nan(static_cast<const uint8_t*>(a.rows[r]), a.columns)) continue;
    for (int64_t t = 0; t < d.tokens; ++t)
      d.out[(row + r) * d.row_stride + t * d.token_stride] =
          std::numeric_limits<float>::quiet_NaN();
  }
}

struct Tile {
  alignas(64) float w[kTileRows * kTileColumns];
  alignas(64) float x[kTileTokens * kTileColumns];
  alignas(64) float lanes[kTileRows * kTileTokens * kLanes];
};

// Zeros behind n columns up to the next multiple of 16.
void pad(float* row, int64_t n) { std::fill(row + n, row + round_up(n, kLanes), 0.0f); }

void fill_tile(const InnerLoops& loops, const Dots& d, int64_t t0, int64_t tokens, int64_t k0,
               int64_t columns, Tile& tile) {
  for (int64_t r = 0; r < d.rows; ++r) {
    float* w = tile.w + r * kTileColumns;
    decode_row(loops, d.segment, d.quant, d.first_row + r, k0, columns, w);
    pad(w, columns);
  }
  for (int64_t t = 0; t < tokens; ++t) {
    float* x = tile.x + t * kTileColumns;
    std::memcpy(x, d.x[t0 + t] + k0, static_cast<size_t>(columns) * sizeof(float));
    pad(x, columns);
  }
}

void many_tokens(const InnerLoops& loops, const Dots& d) {
  const int64_t K = d.segment.data.shape[1];
  const int64_t rows = round_up(d.rows, kDotRows);
  Tile tile;
  // Rows and tokens that only round up are computed and thrown away: they must be numbers.
  std::fill_n(tile.w + d.rows * kTileColumns, (rows - d.rows) * kTileColumns, 0.0f);
  for (int64_t t0 = 0; t0 < d.tokens; t0 += kTileTokens) {
    const int64_t n = std::min(kTileTokens, d.tokens - t0), tokens = round_up(n, kDotTokens);
    std::fill_n(tile.x + n * kTileColumns, (tokens - n) * kTileColumns, 0.0f);
    std::fill_n(tile.lanes, rows * kTileTokens * kLanes, 0.0f);
    for (int64_t k0 = 0; k0 < K; k0 += kTileColumns) {
      const int64_t columns = std::min(kTileColumns, K - k0);
      fill_tile(loops, d, t0, n, k0, columns, tile);
      loops.tile(tile.w, tile.x, rows, tokens, round_up(columns, kLanes), tile.lanes);
    }
    for (int64_t r = 0; r < d.rows; ++r) {
      float sums[kTileTokens];
      loops.reduce(tile.lanes + r * kTileTokens * kLanes, n, sums);
      for (int64_t t = 0; t < n; ++t) d.out[r * d.row_stride + (t0 + t) * d.token_stride] = sums[t];
    }
  }
}

}  // namespace

void dots(CpuContext& cpu, const Dots& d) {
  const InnerLoops& loops = inner_loops(cpu.level());
  DSR_CHECK(d.rows <= kTileRows, d.rows);
  if (d.tokens >= kTileFrom || !is_read_in_place(d)) return many_tokens(loops, d);
  for (int64_t r = 0; r < d.rows; r += kDotRows)
    few_rows(loops, d, r, std::min(kDotRows, d.rows - r));
}

float dot(const InnerLoops& loops, const float* a, const float* b, int64_t n) {
  float sums[kDotRows * kDotTokens];
  loops.dots_f32({.rows = {a, a, a, a},
                  .x = {b},
                  .tokens = 1,
                  .columns = n,
                  .scales = nullptr,
                  .block_columns = 0,
                  .out = sums});
  return sums[0];
}

void decode_row(const InnerLoops& loops, const WeightSegment& s, const QuantScheme& q, int64_t row,
                int64_t first, int64_t n, float* out) {
  const std::byte* data = row_at(s, row);
  if (s.data.dtype == DType::kBF16)
    return loops.decode_bf16(reinterpret_cast<const uint16_t*>(data) + first, n, out);
  const auto* codes = reinterpret_cast<const uint8_t*>(data);
  const bool simple = s.data.dtype == DType::kF8E4M3 && has_simple_blocks(q);
  if (!simple || loops.has_e4m3_nan(codes + first, n))
    return dequantize_row(s, q, row, first, n, out);
  const RowScales scales(s, q, row);
  loops.decode_e4m3(codes, scales.values(), q.block_columns, first, n, out);
}

}  // namespace dsr::cpu
