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

// Scaled activations that are held at once: 9 tokens of 7168, 31 of 2048.
constexpr int64_t kScaled = 1 << 16;
// Of a token: padded, so that those of several tokens do not begin at the same sets of a cache.
int64_t scaled_stride(int64_t K) { return round_up(K, kLanes) + kLanes; }

const std::byte* row_at(const WeightSegment& s, int64_t row) {
  return static_cast<const std::byte*>(s.data.at(row));
}

// Rows that the inner loops read as they are stored.
bool is_read_in_place(const Tensor& rows) {
  if (rows.dtype == DType::kF8E4M3) return scaled_stride(rows.shape[1]) <= kScaled;
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
  const int64_t stride = scaled_stride(K);
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

// Activations are padded to more, so that rows of them do not begin at the same sets of a cache.
constexpr int64_t kApart = kLanes;

// Of the activations of so many tokens.
constexpr int64_t values_of(int64_t tokens) { return tokens * (3 * kGroupColumns + kApart); }

// What is computed with, on the stack of the thread that does: float32, or bf16 for fast math. The
// activations of some tokens, in the second-level cache, meet a group of rows in the first-level
// one.
struct Tile {
  alignas(64) float w[kGroupRows * kGroupColumns];
  alignas(64) float x[values_of(kTileTokens)];
  alignas(64) float lanes[kTileRows * kTileTokens * kLanes];
  alignas(64) float sums[kTileTokens * kTileRows];
};

// Multiplies all of d's rows with tokens [t0, t0 + n), as many columns at once as there is room
// for.
class TileProduct {
 public:
  TileProduct(CpuContext& cpu, const Dots& d, const float* scales, Tile& tile)
      : loops_(inner_loops(cpu.level())),
        size_(loops_.tile_size),
        d_(d),
        scales_(scales),
        tile_(tile) {
    if (cpu.math() == CpuMath::kExact) return;
    fast_ = cpu.level() >= CpuLevel::kAvx512 ? &fast_loops_avx512bf16() : &loops_.fast;
  }

  void run(int64_t t0, int64_t n) {
    goes_on_ = t0 + n < d_.tokens;
    const int64_t K = d_.segment.data.shape[1];
    const int64_t room = (values_of(size_.tokens) / n - kApart) / size_.columns * size_.columns;
    for (int64_t k = 0; k < K; k += room) add(k, std::min(K, k + room), t0, n);
    store(t0, n);
  }

 private:
  // Columns [begin, end).
  void add(int64_t begin, int64_t end, int64_t t0, int64_t n) {
    const int64_t K = d_.segment.data.shape[1];
    stride_ = round_up(end - begin, kPad) + kApart;
    // Whole registers of one scale each are scaled where they are multiplied.
    const bool is_raw = scales_ != nullptr && (fast_ == nullptr || fast_->takes_raw) &&
                        K % kPad == 0 && d_.quant.block_columns % kPad == 0;
    if (!is_raw) fill_x(t0, n, begin, end - begin);
    for (int64_t r = 0; r < d_.rows; r += kGroupRows) {
      for (int64_t k = begin; k < end; k += size_.columns) {
        const int64_t columns = std::min(size_.columns, end - k);
        fill_w(r, k, columns);
        multiply({.w = tile_.w,
                  .x = tile_.x + (k - begin),
                  .x_stride = stride_,
                  .raw = {.x = is_raw && r == 0 ? d_.x + t0 : nullptr,
                          .scales = scales_,
                          .block_columns = d_.quant.block_columns,
                          .first = k},
                  .tokens = n,
                  .columns = round_up(columns, kPad),
                  .begin = k == 0,
                  .lanes = tile_.lanes + (end - begin == K ? 0 : r * kTileTokens * kLanes),
                  .sums = k + columns == K ? sums_at(r, t0) : nullptr,
                  .sums_stride = r < n_direct() ? d_.token_stride : kTileRows,
                  .next = codes_after(r, begin, k + columns, end)});
      }
    }
  }

  // What fill_w turns into float32 after columns [.., k) of the group of rows from r on, where
  // [begin, end) are at hand: more of them, the next group, the first one from `end` on or, with
  // all columns, once more, or what comes after all.
  NextRows codes_after(int64_t r, int64_t begin, int64_t k, int64_t end) const {
    const Tensor& data = d_.segment.data;
    const int64_t K = data.shape[1], size = size_bytes(data.dtype);
    const bool is_last = r + kGroupRows >= d_.rows && k == end;
    if (k == end) r = is_last ? 0 : r + kGroupRows;
    if (k == end && !(is_last && end < K)) k = is_last ? 0 : begin;
    const std::byte* first = row_at(d_.segment, d_.first_row + r) + k * size;
    if (is_last && k == 0 && !goes_on_)
      first = d_.next != nullptr ? static_cast<const std::byte*>(d_.next)
                                 : row_at(d_.segment, d_.first_row + d_.rows);
    return {first, data.strides[0] * size, std::min(kGroupRows, d_.rows - r),
            std::min(K - k, size_.columns) * size};
  }

  void multiply(const TileArgs& a) {
    if (fast_ == nullptr) return loops_.tile(a);
    fast_->tile({.w = as_bf16(tile_.w),
                 .x = as_bf16(tile_.x) + (a.x - tile_.x),
                 .x_stride = a.x_stride,
                 .raw = a.raw,
                 .tokens = a.tokens,
                 .columns = a.columns,
                 .begin = a.begin,
                 .lanes = a.lanes,
                 .sums = a.sums,
                 .sums_stride = a.sums_stride,
                 .next = a.next});
  }

  // Rows whose sums are what is wanted: whole groups of them.
  int64_t n_direct() const { return d_.gates ? 0 : d_.rows / kGroupRows * kGroupRows; }
  float* sums_at(int64_t r, int64_t t0) const {
    return r < n_direct() ? d_.out + t0 * d_.token_stride + r : tile_.sums + r;
  }

  // The other sums of all columns.
  void store(int64_t t0, int64_t n) const {
    const int64_t first = n_direct(), rows = d_.rows - first;
    if (rows == 0) return;
    for (int64_t t = 0; t < n; ++t) {
      const float* sums = tile_.sums + t * kTileRows + first;
      float* out = d_.out + (t0 + t) * d_.token_stride + first;
      if (d_.gates)
        loops_.silu_times(out, sums, rows, out);
      else
        std::copy_n(sums, rows, out);
    }
  }

  static uint16_t* as_bf16(float* values) { return reinterpret_cast<uint16_t*>(values); }

  // fill(out) writes n values, at most kGroupColumns, to place `at` of `to`, with zeros up to kPad
  // behind.
  template <typename Fill>
  void put(int64_t n, float* to, int64_t at, const Fill& fill) {
    float values[kGroupColumns];
    float* out = fast_ == nullptr ? to + at : values;
    fill(out);
    std::fill(out + n, out + round_up(n, kPad), 0.0f);
    if (fast_ != nullptr) fast_->round_bf16(out, round_up(n, kPad), as_bf16(to) + at);
  }

  // Columns [k, k + n) of the group of rows from r on. Rows that only fill the group are computed
  // and thrown away: they must be numbers.
  void fill_w(int64_t r, int64_t k, int64_t n) {
    const WeightSegment& s = d_.segment;
    const int64_t rows = std::min(kGroupRows, d_.rows - r);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t row = d_.first_row + r + i, at = i * kGroupColumns;
      if (fast_ != nullptr && s.data.dtype == DType::kF8E4M3 && s.no_nan) {
        uint16_t* out = as_bf16(tile_.w) + at;
        loops_.decode_e4m3_as_bf16(reinterpret_cast<const uint8_t*>(row_at(s, row)) + k, n, out);
        std::fill(out + n, out + round_up(n, kPad), uint16_t{0});
      } else {
        put(n, tile_.w, at,
            [&](float* out) { decode_unscaled(loops_, s, d_.quant, row, k, n, out); });
      }
    }
    if (fast_ != nullptr)
      std::fill(as_bf16(tile_.w) + rows * kGroupColumns,
                as_bf16(tile_.w) + kGroupRows * kGroupColumns, uint16_t{0});
    else
      std::fill(tile_.w + rows * kGroupColumns, std::end(tile_.w), 0.0f);
  }

  // Columns [k, k + columns) of tokens [t0, t0 + n).
  void fill_x(int64_t t0, int64_t n, int64_t k, int64_t columns) {
    for (int64_t t = 0; t < n; ++t)
      for (int64_t c = 0; c < columns; c += kGroupColumns) {
        const int64_t here = std::min(kGroupColumns, columns - c);
        put(here, tile_.x, t * stride_ + c, [&](float* out) {
          const float* x = d_.x[t0 + t] + k + c;
          if (scales_ == nullptr)
            std::copy_n(x, here, out);
          else
            loops_.scale(x, scales_, d_.quant.block_columns, k + c, here, out);
        });
      }
  }

  const InnerLoops& loops_;
  const TileSize size_;
  const FastLoops* fast_ = nullptr;  // with fast math
  const Dots& d_;
  const float* scales_;
  Tile& tile_;
  bool goes_on_ = false;
  int64_t stride_ = 0;  // from a token's activations to the next
};

// Rows that share their scales.
void many_tokens(CpuContext& cpu, const Dots& d, const float* scales) {
  Tile tile;
  TileProduct product(cpu, d, scales, tile);
  for_each_token_part(cpu, d.tokens, [&](int64_t t0, int64_t n) { product.run(t0, n); });
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
