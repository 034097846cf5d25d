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
    a.out[r] = d.out + streams.first(r);
  }
  std::copy_n(x, d.tokens, a.x);
  a.tokens = d.tokens;
  a.columns = data.shape[1];
  a.row_stride = 1;
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

// The same for rows that share their scales. Never twice on a stack, which may be small.
[[gnu::noinline]] void few_tokens(const InnerLoops& loops, const Dots& d) {
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

// The same for the rows of `up`, where d.out holds what those of `gate` gave.
void few_gated_tokens(const InnerLoops& loops, const Dots& d) {
  float product[kDotTokens * kTileRows];
  Dots up = d;
  up.out = product;
  up.token_stride = kTileRows;
  few_tokens(loops, up);
  for (int64_t t = 0; t < d.tokens; ++t) {
    float* out = d.out + t * d.token_stride;
    loops.silu_times(out, product + t * kTileRows, d.rows, out);
  }
}

// Columns are padded to this.
constexpr int64_t kPad = 2 * kLanes;

// What is computed with, on the stack of the thread that does: float32, or bf16 for fast math.
struct Tile {
  alignas(64) float w[kTileRows * kTileColumns];
  alignas(64) float x[kBlockTokens * kTileColumns];
  alignas(64) float lanes[kTileRows * kTileTokens * kLanes];
  alignas(64) float sums[kTileTokens * kTileRows];
};

// Multiplies all of d's rows with some tokens, kTileColumns columns at a time.
class TileProduct {
 public:
  TileProduct(CpuContext& cpu, const Dots& d, const float* scales, Tile& tile)
      : loops_(inner_loops(cpu.level())), d_(d), scales_(scales), tile_(tile) {
    if (cpu.math() == CpuMath::kExact) return;
    fast_ = cpu.level() >= CpuLevel::kAvx512 ? fast_tile_avx512bf16 : loops_.fast_tile;
  }

  // Of columns [k, k + columns).
  void fill_w(int64_t k, int64_t columns) {
    for (int64_t r = 0; r < d_.rows; ++r)
      put(columns, tile_.w, r, [&](float* out) {
        decode_unscaled(loops_, d_.segment, d_.quant, d_.first_row + r, k, columns, out);
      });
    put_zero_rows(d_.rows, round_up(d_.rows, kTileRowRound) - d_.rows);
  }

  // Adds the products of these columns and tokens [t0, t0 + n). The last ones give sums. `next`
  // will be asked of fill_w.
  void add(int64_t k, int64_t columns, int64_t t0, int64_t n, NextRows next) {
    const bool is_end = k + columns == d_.segment.data.shape[1];
    const auto* next_row = static_cast<const std::byte*>(next.first);
    const int64_t n_next = next.rows;
    const int64_t blocks = ceil_div(n, kBlockTokens);  // of about the same size
    for (int64_t i = 0; i < blocks; ++i) {
      const int64_t t = n * i / blocks, here = n * (i + 1) / blocks - t;
      const int64_t begin = n_next * t / n, end = n_next * (t + here) / n;
      next.first = next_row + begin * next.row_bytes;
      next.rows = end - begin;
      fill_x(t0 + t, here, k, columns);
      const TileArgs a = {.w = tile_.w,
                          .x = tile_.x,
                          .rows = round_up(d_.rows, kTileRowRound),
                          .tokens = here,
                          .columns = round_up(columns, kPad),
                          .begin = k == 0,
                          .lanes = tile_.lanes + i * kBlockTokens * kTileRows * kLanes,
                          .sums = is_end ? tile_.sums + t * kTileRows : nullptr,
                          .next = next};
      if (fast_ == nullptr)
        loops_.tile(a);
      else
        fast_({.w = as_bf16(tile_.w),
               .x = as_bf16(tile_.x),
               .rows = a.rows,
               .tokens = a.tokens,
               .columns = a.columns,
               .begin = a.begin,
               .lanes = a.lanes,
               .sums = a.sums,
               .next = a.next});
    }
  }

  // The sums of all columns.
  void store(int64_t t0, int64_t n) const {
    for (int64_t t = 0; t < n; ++t) {
      const float* sums = tile_.sums + t * kTileRows;
      float* out = d_.out + (t0 + t) * d_.token_stride;
      if (d_.gates)
        loops_.silu_times(out, sums, d_.rows, out);
      else
        std::copy_n(sums, d_.rows, out);
    }
  }

 private:
  static uint16_t* as_bf16(float* values) { return reinterpret_cast<uint16_t*>(values); }

  // fill(out) writes n values: for a row of the matrix `to`, with zeros up to kPad behind.
  template <typename Fill>
  void put(int64_t n, float* to, int64_t row, const Fill& fill) {
    const int64_t at = row * kTileColumns;
    float values[kTileColumns];
    float* out = fast_ == nullptr ? to + at : values;
    fill(out);
    std::fill(out + n, out + round_up(n, kPad), 0.0f);
    if (fast_ != nullptr) loops_.round_bf16(out, round_up(n, kPad), as_bf16(to) + at);
  }
  // Rows that only round up are computed and thrown away: they must be numbers.
  void put_zero_rows(int64_t row, int64_t rows) {
    const int64_t at = row * kTileColumns;
    if (fast_ == nullptr)
      std::fill_n(tile_.w + at, rows * kTileColumns, 0.0f);
    else
      std::fill_n(as_bf16(tile_.w) + at, rows * kTileColumns, uint16_t{0});
  }

  void fill_x(int64_t t0, int64_t n, int64_t k, int64_t columns) {
    for (int64_t t = 0; t < n; ++t)
      put(columns, tile_.x, t, [&](float* out) {
        const float* x = d_.x[t0 + t] + k;
        if (scales_ == nullptr)
          std::copy_n(x, columns, out);
        else
          loops_.scale(x, scales_, d_.quant.block_columns, k, columns, out);
      });
  }

  const InnerLoops& loops_;
  FastTile fast_ = nullptr;  // with fast math
  const Dots& d_;
  const float* scales_;
  Tile& tile_;
};

// What many_tokens turns into float32 after columns [.., k) of its rows: more of them, or the first
// ones of these rows once more, or of what comes next.
NextRows rows_after(const Dots& d, int64_t k, bool again) {
  const Tensor& data = d.segment.data;
  const int64_t K = data.shape[1], size = size_bytes(data.dtype);
  if (again && K <= kTileColumns) return {};  // they are held
  const int64_t row_bytes = data.strides[0] * size;
  const std::byte* rows = row_at(d.segment, d.first_row);
  const void* first = rows;
  if (k < K)
    first = rows + k * size;
  else if (!again)
    first = d.next != nullptr ? d.next : rows + d.rows * row_bytes;
  return {first, row_bytes, d.rows, std::min(kTileColumns, k < K ? K - k : K) * size};
}

// Rows that share their scales.
void many_tokens(CpuContext& cpu, const Dots& d, const float* scales) {
  const int64_t K = d.segment.data.shape[1];
  Tile tile;
  TileProduct product(cpu, d, scales, tile);
  const bool holds_all = K <= kTileColumns;  // once for all tokens
  if (holds_all) product.fill_w(0, K);
  for_each_token_part(d.tokens, [&](int64_t t0, int64_t n) {
    for (int64_t k = 0; k < K; k += kTileColumns) {
      const int64_t columns = std::min(kTileColumns, K - k);
      if (!holds_all) product.fill_w(k, columns);
      product.add(k, columns, t0, n, rows_after(d, k + columns, t0 + n < d.tokens));
    }
    product.store(t0, n);
  });
}

// Rows that share their scales.
void dots_of_block(CpuContext& cpu, const Dots& d) {
  if (d.tokens < kTileFrom && is_read_in_place(d.segment.data)) {
    const auto few = d.gates ? few_gated_tokens : few_tokens;
    return few(inner_loops(cpu.level()), d);
  }
  const RowScales scales(d.segment, d.quant, d.first_row);
  many_tokens(cpu, d, scales.values());
}

}  // namespace

void dots(CpuContext& cpu, const Dots& d) {
  DSR_CHECK(d.rows <= kTileRows, d.rows);
  if (d.segment.data.dtype != DType::kF8E4M3) return dots_of_block(cpu, d);
  for (int64_t r = 0; r < d.rows;) {
    const int64_t row = d.first_row + r, block_end = round_up(row + 1, d.quant.block_rows);
    Dots part = d;
    part.first_row = row;
    part.rows = std::min(d.rows - r, block_end - row);
    part.out = d.out + r;
    if (r + part.rows < d.rows) part.next = nullptr;
    dots_of_block(cpu, part);
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
