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

// Weights that are held as float32: 1 MB, half of a second-level cache.
constexpr int64_t kPanel = kTileRows * 4 * kTileColumns;

// What is computed with: on the stack of the thread that does.
struct Tile {
  alignas(64) float w[kPanel];  // [block of kTileColumns][rows][kTileColumns]
  alignas(64) float x[kTileTokens * kTileColumns];
  alignas(64) float lanes[kTileRows * kTileTokens * kLanes];
};

// Zeros behind n columns up to the next multiple of 16.
void pad(float* row, int64_t n) { std::fill(row + n, row + round_up(n, kLanes), 0.0f); }

// The products of one panel of weights, columns [first_column, end_column) of d's rows, with all
// tokens.
class Panel {
 public:
  Panel(const InnerLoops& loops, const Dots& d, const float* scales, Tile& tile)
      : loops_(loops), d_(d), scales_(scales), tile_(tile) {}

  // Columns [first, end) as float32; first is a multiple of kTileColumns.
  void decode(int64_t first, int64_t end) {
    first_ = first;
    end_ = end;
    for (int64_t r = 0; r < d_.rows; ++r)
      for (int64_t k = first; k < end; k += kTileColumns) {
        const int64_t n = std::min(kTileColumns, end - k);
        float* w = weights(k) + r * kTileColumns;
        decode_unscaled(loops_, d_.segment, d_.quant, d_.first_row + r, k, n, w);
        pad(w, n);
      }
    // Rows that only round up are computed and thrown away: they must be numbers.
    for (int64_t k = first; k < end; k += kTileColumns)
      std::fill_n(weights(k) + d_.rows * kTileColumns, (rows() - d_.rows) * kTileColumns, 0.0f);
  }

  // Adds the products with tokens [t0, t0 + n) to the lanes. `ahead`: what to ask for meanwhile.
  void multiply(int64_t t0, int64_t n, const uint8_t* ahead, int64_t ahead_bytes) {
    const int64_t blocks = ceil_div(end_ - first_, kTileColumns);
    for (int64_t k = first_, i = 0; k < end_; k += kTileColumns, ++i) {
      const int64_t columns = std::min(kTileColumns, end_ - k);
      fill_x(t0, n, k, columns);
      const int64_t from = ahead_bytes * i / blocks, to = ahead_bytes * (i + 1) / blocks;
      loops_.tile({.w = weights(k),
                   .x = tile_.x,
                   .rows = rows(),
                   .tokens = round_up(n, kTileTokenRound),
                   .columns = round_up(columns, kLanes),
                   .begin = k == 0,
                   .lanes = tile_.lanes,
                   .ahead = ahead + from,
                   .ahead_bytes = to - from});
    }
  }

  // The sums of lanes that hold the products of all columns.
  void store(int64_t t0, int64_t n) {
    for (int64_t r = 0; r < d_.rows; ++r) {
      float sums[kTileTokens];
      loops_.reduce(tile_.lanes + r * kTileTokens * kLanes, n, sums);
      float* out = d_.out + r * d_.row_stride + t0 * d_.token_stride;
      for (int64_t t = 0; t < n; ++t) out[t * d_.token_stride] = sums[t];
    }
  }

 private:
  int64_t rows() const { return round_up(d_.rows, kTileRowRound); }
  float* weights(int64_t k) { return tile_.w + (k - first_) * rows(); }

  void fill_x(int64_t t0, int64_t n, int64_t k, int64_t columns) {
    for (int64_t t = 0; t < n; ++t) {
      float* x = tile_.x + t * kTileColumns;
      const float* from = d_.x[t0 + t] + k;
      if (scales_ == nullptr)
        std::copy_n(from, columns, x);
      else
        loops_.scale(from, scales_, d_.quant.block_columns, k, columns, x);
      pad(x, columns);
    }
    std::fill_n(tile_.x + n * kTileColumns, (round_up(n, kTileTokenRound) - n) * kTileColumns,
                0.0f);
  }

  const InnerLoops& loops_;
  const Dots& d_;
  const float* scales_;
  Tile& tile_;
  int64_t first_ = 0, end_ = 0;
};

// Rows that share their scales. Weights are decoded once for all tokens where a panel holds all of
// their columns, else once for each part of the tokens.
void many_tokens(const InnerLoops& loops, const Dots& d, const float* scales) {
  const int64_t K = d.segment.data.shape[1];
  const int64_t fit = kPanel / round_up(d.rows, kTileRowRound) / kTileColumns * kTileColumns;
  const int64_t row_bytes = d.segment.data.strides[0] * size_bytes(d.segment.data.dtype);
  const auto* next = static_cast<const uint8_t*>(d.next);
  if (next == nullptr)
    next = reinterpret_cast<const uint8_t*>(row_at(d.segment, d.first_row)) + d.rows * row_bytes;
  Tile tile;
  Panel panel(loops, d, scales, tile);
  if (K <= fit) panel.decode(0, K);
  for_each_token_part(d.tokens, [&](int64_t t0, int64_t n) {
    if (K <= fit) {
      panel.multiply(t0, n, next, t0 == 0 ? d.rows * row_bytes : 0);
    } else {
      for (int64_t k = 0; k < K; k += fit) {
        panel.decode(k, std::min(K, k + fit));
        panel.multiply(t0, n, next, 0);
      }
    }
    panel.store(t0, n);
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
