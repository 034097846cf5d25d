#include "ops/cpu/dots.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "ops/cpu/row_streams.h"
#include "ops/cpu/tiles.h"

namespace dsr::cpu {
namespace {

// From this many tokens on, weights are turned into float32 once for all.
constexpr int64_t kTileFrom = kDotTokens + 1;

// Scaled activations that are held at once: 9 tokens of 7168, 32 of 2048.
constexpr int64_t kScaled = 1 << 16;

const std::byte* row_at(const WeightSegment& s, int64_t row) {
  return static_cast<const std::byte*>(s.data.at(row));
}

// Rows that the inner loops read as they are stored.
bool is_read_in_place(const Tensor& rows) {
  if (rows.dtype == DType::kF8E4M3) return rows.shape[1] <= kScaled;
  return rows.dtype == DType::kBF16 || rows.dtype == DType::kF32;
}

void call(const InnerLoops& loops, DType dtype, const DotArgs& a) {
  if (dtype == DType::kF8E4M3) return loops.dots_e4m3(a);
  if (dtype == DType::kBF16) return loops.dots_bf16(a);
  loops.dots_f32(a);
}

// Rows as they are stored with the activations `x`, which are d.x or scaled.
void stored_rows(const InnerLoops& loops, const Dots& d, const float* const* x) {
  const RowStreams streams(d.rows);
  const Tensor& data = d.segment.data;
  DotArgs a{};
  a.row_bytes = data.strides[0] * size_bytes(data.dtype);
  a.steps = streams.steps();
  const std::byte* first = row_at(d.segment, d.first_row);
  const std::byte* next =
      d.next != nullptr ? static_cast<const std::byte*>(d.next) : first + d.rows * a.row_bytes;
  for (int64_t r = 0; r < kDotRows; ++r) {
    a.rows[r] = first + streams.first(r) * a.row_bytes;
    a.next[r] = next + streams.first(r) * a.row_bytes;
    a.out[r] = d.out + streams.first(r) * d.row_stride;
  }
  std::copy_n(x, d.tokens, a.x);
  a.tokens = d.tokens;
  a.columns = data.shape[1];
  a.row_stride = d.row_stride;
  a.token_stride = d.token_stride;
  a.end = a.steps;
  if (data.dtype != DType::kF8E4M3 || d.segment.no_nan) return call(loops, data.dtype, a);
  for (int64_t step = 0; step < a.steps; ++step) {  // looked at while they are in the cache
    a.begin = step;
    a.end = step + 1;
    call(loops, data.dtype, a);
    for (int64_t r = 0; r < kDotRows; ++r) {
      const auto* row = static_cast<const std::byte*>(a.rows[r]) + step * a.row_bytes;
      if (!loops.has_e4m3_nan(reinterpret_cast<const uint8_t*>(row), a.columns)) continue;
      float* out = a.out[r] + step * a.row_stride;
      for (int64_t t = 0; t < d.tokens; ++t)
        out[t * a.token_stride] = std::numeric_limits<float>::quiet_NaN();
    }
  }
}

// The same for rows that share their scales.
void few_tokens(const InnerLoops& loops, const Dots& d) {
  if (d.segment.data.dtype != DType::kF8E4M3) return stored_rows(loops, d, d.x);
  const RowScales scales(d.segment, d.quant, d.first_row);
  const int64_t K = d.segment.data.shape[1];
  const int64_t stride = round_up(K, kLanes);
  alignas(64) float scaled[kScaled];
  const float* x[kTileFrom];
  const int64_t at_once = std::min(kTileFrom, kScaled / stride);
  for (int64_t first = 0; first < d.tokens; first += at_once) {
    Dots part = d;
    part.tokens = std::min(at_once, d.tokens - first);
    part.out = d.out + first * d.token_stride;
    for (int64_t t = 0; t < part.tokens; ++t) {
      loops.scale(d.x[first + t], scales.values(), d.quant.block_columns, 0, K,
                  scaled + t * stride);
      x[t] = scaled + t * stride;
    }
    stored_rows(loops, part, x);
  }
}

struct Tile {
  alignas(64) float w[kTileRows * kTileColumns];
  alignas(64) float x[kTileTokens * kTileColumns];
  alignas(64) float lanes[kTileRows * kTileTokens * kLanes];
};

// Zeros behind n columns up to the next multiple of 16.
void pad(float* row, int64_t n) { std::fill(row + n, row + round_up(n, kLanes), 0.0f); }

// Columns [k0, k0 + columns) of the rows and of tokens [t0, t0 + tokens).
struct TilePart {
  int64_t t0, tokens, k0, columns;
};
void fill_tile(const InnerLoops& loops, const Dots& d, const TilePart& p, const float* scales,
               Tile& tile) {
  for (int64_t r = 0; r < d.rows; ++r) {
    float* w = tile.w + r * kTileColumns;
    decode_unscaled(loops, d.segment, d.quant, d.first_row + r, p.k0, p.columns, w);
    pad(w, p.columns);
  }
  for (int64_t t = 0; t < p.tokens; ++t) {
    float* x = tile.x + t * kTileColumns;
    const float* from = d.x[p.t0 + t] + p.k0;
    if (scales == nullptr)
      std::copy_n(from, p.columns, x);
    else
      loops.scale(from, scales, d.quant.block_columns, p.k0, p.columns, x);
    pad(x, p.columns);
  }
}

// Rows that share their scales.
void many_tokens(const InnerLoops& loops, const Dots& d, const float* scales) {
  const int64_t K = d.segment.data.shape[1];
  const int64_t rows = round_up(d.rows, kTileRowRound);
  Tile tile;
  // Rows and tokens that only round up are computed and thrown away: they must be numbers.
  std::fill_n(tile.w + d.rows * kTileColumns, (rows - d.rows) * kTileColumns, 0.0f);
  for_each_token_part(d.tokens, [&](int64_t t0, int64_t n) {
    const int64_t tokens = round_up(n, kTileTokenRound);
    std::fill_n(tile.x + n * kTileColumns, (tokens - n) * kTileColumns, 0.0f);
    for (int64_t k0 = 0; k0 < K; k0 += kTileColumns) {
      const TilePart part{t0, n, k0, std::min(kTileColumns, K - k0)};
      fill_tile(loops, d, part, scales, tile);
      loops.tile({.w = tile.w,
                  .x = tile.x,
                  .rows = rows,
                  .tokens = tokens,
                  .columns = round_up(part.columns, kLanes),
                  .begin = k0 == 0,
                  .lanes = tile.lanes});
    }
    for (int64_t r = 0; r < d.rows; ++r) {
      float sums[kTileTokens];
      loops.reduce(tile.lanes + r * kTileTokens * kLanes, n, sums);
      for (int64_t t = 0; t < n; ++t) d.out[r * d.row_stride + (t0 + t) * d.token_stride] = sums[t];
    }
  });
}

// Rows that share their scales.
void dots_of_block(const InnerLoops& loops, const Dots& d) {
  if (d.tokens < kTileFrom && is_read_in_place(d.segment.data)) return few_tokens(loops, d);
  if (d.segment.data.dtype != DType::kF8E4M3) return many_tokens(loops, d, nullptr);
  const RowScales scales(d.segment, d.quant, d.first_row);
  many_tokens(loops, d, scales.values());
}

}  // namespace

void dots(CpuContext& cpu, const Dots& d) {
  const InnerLoops& loops = inner_loops(cpu.level());
  DSR_CHECK(d.rows <= kTileRows, d.rows);
  if (d.segment.data.dtype != DType::kF8E4M3) return dots_of_block(loops, d);
  for (int64_t r = 0; r < d.rows;) {
    const int64_t row = d.first_row + r, block_end = round_up(row + 1, d.quant.block_rows);
    Dots part = d;
    part.first_row = row;
    part.rows = std::min(d.rows - r, block_end - row);
    part.out = d.out + r * d.row_stride;
    dots_of_block(loops, part);
    r += part.rows;
  }
}

float dot(const InnerLoops& loops, const float* a, const float* b, int64_t n) {
  float sums[kDotRows];
  DotArgs args{};
  for (int64_t r = 0; r < kDotRows; ++r) {
    args.rows[r] = args.next[r] = a;
    args.out[r] = sums + r;
  }
  args.steps = args.end = 1;
  args.x[0] = b;
  args.tokens = 1;
  args.columns = n;
  loops.dots_f32(args);
  return sums[0];
}

void decode_unscaled(const InnerLoops& loops, const WeightSegment& s, const QuantScheme& q,
                     int64_t row, int64_t first, int64_t n, float* out) {
  const std::byte* data = row_at(s, row);
  if (s.data.dtype == DType::kBF16)
    return loops.decode_bf16(reinterpret_cast<const uint16_t*>(data) + first, n, out);
  if (s.data.dtype != DType::kF8E4M3) return dequantize_row(s, q, row, first, n, out);
  const auto* codes = reinterpret_cast<const uint8_t*>(data) + first;
  loops.decode_e4m3(codes, n, out);
  if (s.no_nan || !loops.has_e4m3_nan(codes, n)) return;
  for (int64_t i = 0; i < n; ++i)
    if ((codes[i] & 0x7f) == 0x7f) out[i] = std::numeric_limits<float>::quiet_NaN();
}

}  // namespace dsr::cpu
