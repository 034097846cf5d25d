#include "ops/cpu/dots.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "ops/cpu/row_streams.h"
#include "ops/cpu/tiles.h"

namespace dsr::cpu {
namespace {

// From this many tokens on, weights are decoded once for all.
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

using Loop = void (*)(const DotArgs& a);

// Rows as they are stored with the activations `x`, which are d.x or scaled.
void stored_rows(const InnerLoops& loops, const Dots& d, Loop loop, const float* const* x) {
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
  loop(a);
  if (data.dtype != DType::kF8E4M3 || d.is_nan_free) return;
  for (int64_t r = 0; r < d.rows; ++r) {
    if (is_nan_free(loops, d.segment, d.first_row + r, 1)) continue;
    for (int64_t t = 0; t < d.tokens; ++t)
      d.out[r + t * d.token_stride] = std::numeric_limits<float>::quiet_NaN();
  }
}

// Scales the activations of all tokens, each `stride` floats on. Returns the loop that takes them.
Loop scale_tokens(const InnerLoops& loops, const Dots& d, const float* scales, int64_t stride,
                  float* out) {
  const int64_t K = d.segment.data.shape[1], block_columns = d.quant.block_columns;
  if (d.tokens <= loops.raised.tokens && loops.raised.raise({.x = d.x,
                                                             .scales = scales,
                                                             .block_columns = block_columns,
                                                             .columns = K,
                                                             .tokens = d.tokens,
                                                             .all = out,
                                                             .stride = stride}))
    return loops.raised.dots_e4m3;
  for (int64_t t = 0; t < d.tokens; ++t)
    loops.scale(d.x[t], scales, block_columns, 0, K, out + t * stride);
  return loops.dots_e4m3;
}

// The same for rows that share their scales. Never twice on a stack, which may be small.
[[gnu::noinline]] void few_tokens(const InnerLoops& loops, const Dots& d) {
  const DType dtype = d.segment.data.dtype;
  if (dtype == DType::kBF16) return stored_rows(loops, d, loops.dots_bf16, d.x);
  if (dtype != DType::kF8E4M3) return stored_rows(loops, d, loops.dots_f32, d.x);
  const RowScales scales(d.segment, d.quant, d.first_row);
  const int64_t K = d.segment.data.shape[1];
  const int64_t stride = scaled_stride(K);
  alignas(64) float scaled[kScaled];
  const float* x[kTileFrom];
  const int64_t at_once = std::min(kTileFrom, kScaled / stride);
  for (int64_t first = 0; first < d.tokens; first += at_once) {
    Dots part = d;
    part.x = d.x + first;
    part.tokens = std::min(at_once, d.tokens - first);
    part.out = d.out + first * d.token_stride;
    const Loop loop = scale_tokens(loops, part, scales.values(), stride, scaled);
    for (int64_t t = 0; t < part.tokens; ++t) x[t] = scaled + t * stride;
    stored_rows(loops, part, loop, x);
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

// What is computed with, on the stack of the thread that does: float32, or bf16 for fast math and,
// of rows, where they are narrow. The activations of some tokens, in the second-level cache, meet a
// group of rows in the first-level one. Both lie in the order of inner_loops.h.
struct Tile {
  alignas(64) float w[kGroupRows * kGroupColumns];
  alignas(64) float x[kTileValues];
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
    const DType type = d.segment.data.dtype;
    if (type != DType::kF8E4M3 && type != DType::kBF16) exact_ = &loops_.f32_tile;
    if (cpu.math() == CpuMath::kExact) return;
    fast_ = cpu.level() >= CpuLevel::kAvx512 ? &fast_loops_avx512bf16() : &loops_.fast;
  }

  void run(int64_t t0, int64_t n) {
    t0_ = t0;
    n_ = n;
    const int64_t K = d_.segment.data.shape[1];
    const int64_t panels = size_.tokens * size_.panels / n;
    for (int64_t k = 0; k < K; k += panels * size_.columns)
      add(k, std::min(K, k + panels * size_.columns));
    store();
  }

 private:
  const TileOrder& order() const { return fast_ == nullptr ? exact_->order : fast_->order; }
  int64_t unit_columns() const { return fast_ == nullptr ? kLanes : 2 * kLanes; }
  int64_t units(int64_t columns) const { return ceil_div(columns, unit_columns()); }
  // Column k of the activations at hand, a multiple of a panel's.
  void* x_at(int64_t k) const {
    return reinterpret_cast<std::byte*>(tile_.x) + units(k) * n_ * TileOrder::kUnitBytes;
  }

  // Columns [begin, end).
  void add(int64_t begin, int64_t end) {
    const int64_t K = d_.segment.data.shape[1];
    // Whole units of one scale each are scaled where they are multiplied.
    const bool is_raw = scales_ != nullptr && (fast_ == nullptr || fast_->takes_raw) &&
                        K % unit_columns() == 0 && d_.quant.block_columns % unit_columns() == 0;
    if (!is_raw) fill_x(begin, end);
    for (int64_t r = 0; r < d_.rows; r += kGroupRows) {
      for (int64_t k = begin; k < end; k += size_.columns) {
        const int64_t columns = std::min(size_.columns, end - k);
        fill_w(r, k, columns, packed_next(r, begin, k + columns, end));
        multiply({.w = tile_.w,
                  .x = static_cast<float*>(x_at(k - begin)),
                  .raw = {.x = is_raw && r == 0 ? d_.x + t0_ : nullptr,
                          .scales = scales_,
                          .block_columns = d_.quant.block_columns,
                          .first = k},
                  .tokens = n_,
                  .columns = units(columns) * unit_columns(),
                  .begin = k == 0,
                  .lanes = tile_.lanes + (end - begin == K ? 0 : r * kTileTokens * kLanes),
                  .sums = k + columns == K ? sums_at(r) : nullptr,
                  .sums_stride = r < n_direct() ? d_.token_stride : kTileRows});
      }
    }
  }

  // What fill_w packs after columns [.., k) of the group of rows from r on, where [begin, end) are
  // at hand: more of them, the next group, the first one from `end` on or, with all columns, once
  // more, or what comes after all.
  const void* packed_next(int64_t r, int64_t begin, int64_t k, int64_t end) const {
    const int64_t K = d_.segment.data.shape[1];
    const bool is_last = r + kGroupRows >= d_.rows && k == end;
    if (k == end) r = is_last ? 0 : r + kGroupRows;
    if (k == end && !(is_last && end < K)) k = is_last ? 0 : begin;
    if (is_last && k == 0 && t0_ + n_ == d_.tokens)
      return d_.next != nullptr ? d_.next : row_at(d_.segment, d_.first_row + d_.rows);
    return row_at(d_.segment, d_.first_row + r) + k * size_bytes(d_.segment.data.dtype);
  }

  void multiply(const TileArgs& a) {
    if (fast_ == nullptr) return exact_->run(a);
    fast_->tile({.w = a.w,
                 .x = reinterpret_cast<uint16_t*>(a.x),
                 .raw = a.raw,
                 .tokens = a.tokens,
                 .columns = a.columns,
                 .begin = a.begin,
                 .lanes = a.lanes,
                 .sums = a.sums,
                 .sums_stride = a.sums_stride});
  }

  // Rows whose sums are what is wanted: whole groups of them.
  int64_t n_direct() const { return d_.gates ? 0 : d_.rows / kGroupRows * kGroupRows; }
  float* sums_at(int64_t r) const {
    return r < n_direct() ? d_.out + t0_ * d_.token_stride + r : tile_.sums + r;
  }

  // The other sums of all columns.
  void store() const {
    const int64_t first = n_direct(), rows = d_.rows - first;
    if (rows == 0) return;
    for (int64_t t = 0; t < n_; ++t) {
      const float* sums = tile_.sums + t * kTileRows + first;
      float* out = d_.out + (t0_ + t) * d_.token_stride + first;
      if (d_.gates)
        loops_.silu_times(out, sums, rows, out);
      else
        std::copy_n(sums, rows, out);
    }
  }

  // fill(out) writes n float32 values, at most kGroupColumns, for the places `to`.
  template <typename Fill>
  void put(int64_t n, const UnitPlaces& to, const Fill& fill) const {
    alignas(64) float values[kGroupColumns];
    fill(values);
    const int64_t all = units(n) * unit_columns();
    std::fill(values + n, values + all, 0.0f);
    if (fast_ == nullptr) return loops_.pack_units(values, units(n), to);
    alignas(64) uint16_t rounded[kGroupColumns];
    fast_->round_bf16(values, all, rounded);
    loops_.pack_units(rounded, units(n), to);
  }

  // Columns [k, k + n) of the group of rows from r on. Rows that only fill the group are computed
  // and thrown away: they must be numbers.
  void fill_w(int64_t r, int64_t k, int64_t n, const void* next) {
    const WeightSegment& s = d_.segment;
    const int64_t size = size_bytes(s.data.dtype), first = d_.first_row + r;
    RowsToPack rows{.first = row_at(s, first) + k * size,
                    .row_bytes = s.data.strides[0] * size,
                    .rows = std::min(kGroupRows, d_.rows - r),
                    .columns = n,
                    .w = tile_.w,
                    .next = next};
    if (rows.rows < kGroupRows)
      std::memset(tile_.w, 0, static_cast<size_t>(kGroupRows * units(n) * TileOrder::kUnitBytes));
    const auto put_rows = [&] {
      for (int64_t i = 0; i < rows.rows; ++i) {
        for (int64_t line = 0; line < n * size; line += 64)
          __builtin_prefetch(static_cast<const std::byte*>(next) + i * rows.row_bytes + line, 0, 2);
        put(n, row_places(order(), tile_.w, i, units(n)),
            [&](float* out) { decode_unscaled(loops_, s, d_.quant, first + i, k, n, out); });
      }
    };
    if (s.data.dtype == DType::kF8E4M3) {
      if (has_no_nan(rows))
        return (fast_ == nullptr ? loops_.pack_e4m3 : loops_.pack_e4m3_as_bf16)(rows);
      if (fast_ != nullptr) return put_rows();
      uint16_t bf16[kGroupRows * kGroupColumns];
      for (int64_t i = 0; i < rows.rows; ++i) {
        float values[kGroupColumns];
        decode_unscaled(loops_, s, d_.quant, first + i, k, n, values);
        std::transform(values, values + n, bf16 + i * n, f32_to_bf16);  // exact
      }
      rows.first = rows.next = bf16;
      rows.row_bytes = n * size_bytes(DType::kBF16);
      return loops_.pack_bf16(rows);
    }
    if (s.data.dtype == DType::kBF16 && fast_ == nullptr) return loops_.pack_bf16(rows);
    put_rows();
  }

  bool has_no_nan(const RowsToPack& rows) const {
    if (d_.is_nan_free) return true;
    const auto* codes = static_cast<const uint8_t*>(rows.first);
    for (int64_t i = 0; i < rows.rows; ++i)
      if (loops_.has_e4m3_nan(codes + i * rows.row_bytes, rows.columns)) return false;
    return true;
  }

  // Columns [begin, end) of all tokens.
  void fill_x(int64_t begin, int64_t end) const {
    for (int64_t k = begin; k < end; k += size_.columns) {
      const int64_t n = std::min(size_.columns, end - k);
      for (int64_t t = 0; t < n_; ++t) {
        const float* x = d_.x[t0_ + t] + k;
        const UnitPlaces to = token_places(order(), x_at(k - begin), t, n_, units(n));
        if (scales_ == nullptr && fast_ == nullptr && n % kLanes == 0)
          loops_.pack_units(x, units(n), to);
        else if (scales_ == nullptr)
          put(n, to, [&](float* out) { std::copy_n(x, n, out); });
        else
          put(n, to,
              [&](float* out) { loops_.scale(x, scales_, d_.quant.block_columns, k, n, out); });
      }
    }
  }

  const InnerLoops& loops_;
  const TileSize size_;
  const TileLoop* exact_ = &loops_.tile;
  const FastLoops* fast_ = nullptr;  // with fast math
  const Dots& d_;
  const float* scales_;
  Tile& tile_;
  int64_t t0_ = 0, n_ = 0;  // the tokens at hand
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
  const bool nan_free = is_nan_free(inner_loops(cpu.level()), d.segment, d.first_row, d.rows);
  for (int64_t r = 0; r < d.rows;) {
    const int64_t row = d.first_row + r, block_end = round_up(row + 1, d.quant.block_rows);
    Dots part = d;
    part.first_row = row;
    part.rows = std::min(d.rows - r, block_end - row);
    part.out = d.out + r;
    part.is_nan_free = nan_free;
    if (r + part.rows < d.rows) part.next = nullptr;
    dots_of_block(cpu, part);
    r += part.rows;
  }
}

bool is_nan_free(const InnerLoops& loops, const WeightSegment& s, int64_t first_row, int64_t rows) {
  bool all = true;
  const int64_t end = first_row + rows;
  for (int64_t first = first_row, next = 0; first < end; first = next) {
    next = std::min(end, round_up(first + 1, NanFreeRows::kUnit));
    if (s.is_known_nan_free(first, next - first)) continue;
    bool found = false;
    for (int64_t r = first; r < next && !found; ++r)
      found = loops.has_e4m3_nan(s.data.ptr<uint8_t>(r), s.data.shape[1]);
    if (!found && s.nan_free != nullptr) s.nan_free->add(first, next - first);
    all &= !found;
  }
  return all;
}

float dot(const InnerLoops& loops, const float* a, const float* b, int64_t n) {
  float sums[kDotRows];
  DotArgs args{};
  for (int64_t r = 0; r < kDotRows; ++r) {
    args.rows[r] = args.next[r] = a;
    args.out[r] = sums + r;
  }
  args.steps = 1;
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
  if (s.is_known_nan_free(row, 1) || !loops.has_e4m3_nan(codes, n)) return;
  for (int64_t i = 0; i < n; ++i)
    if ((codes[i] & 0x7f) == 0x7f) out[i] = std::numeric_limits<float>::quiet_NaN();
}

}  // namespace dsr::cpu
