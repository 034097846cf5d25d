// The inner loops, written once over V, 16 lanes of one level of instructions. Only the files
// inner_loops_*.cc include this, each compiled for its level; their V is in an unnamed namespace,
// so that the linker cannot take one level's code for another's. For the same reason nothing here
// calls an inline function of another header.
//
// V has: Reg; kRows x kTokens, a block of sums that fits the registers (dividing 4 and 6); zero,
// load, load_part (the first n lanes, 0 behind them), store, broadcast, fma, mul, sum (the tree of
// inner_loops.h); bf16(p), and e4m3(p): 2^-8 of the value, exact; kCodes codes are looked at in one
// step by CodeMax.
#pragma once

#include "ops/cpu/inner_loops.h"

namespace dsr::cpu::loops {

constexpr int64_t kE4M3Unit = 256;  // V::e4m3 gives 2^-8 of the value

// --- weights as they are stored -----------------------------------------------------------------

template <class V>
struct F32 {
  static constexpr int64_t kBytes = 4;
  static typename V::Reg load(const void* p) { return V::load(static_cast<const float*>(p)); }
};
template <class V>
struct Bf16 {
  static constexpr int64_t kBytes = 2;
  static typename V::Reg load(const void* p) { return V::bf16(static_cast<const uint16_t*>(p)); }
};
template <class V>
struct E4M3 {
  static constexpr int64_t kBytes = 1;
  static typename V::Reg load(const void* p) { return V::e4m3(static_cast<const uint8_t*>(p)); }
};

template <class W>
const uint8_t* at(const void* row, int64_t k) {
  return static_cast<const uint8_t*>(row) + k * W::kBytes;
}

// The first n of 16 weights, zeros behind them.
template <class V, class W>
typename V::Reg load_part(const void* p, int64_t n) {
  alignas(64) uint8_t copy[kLanes * W::kBytes] = {};
  for (int64_t i = 0; i < n * W::kBytes; ++i) copy[i] = static_cast<const uint8_t*>(p)[i];
  return W::load(copy);
}

// --- few tokens: weights straight from memory ---------------------------------------------------

// The sums of R rows and T tokens, from the rows `row` and tokens `token` of a call on.
template <class V, class W, int R, int T>
struct Sums {
  typename V::Reg sum[R][T];
  const DotArgs& a;
  int row, token;

  Sums(const DotArgs& args, int first_row, int first_token)
      : a(args), row(first_row), token(first_token) {
    for (auto& of_row : sum)
      for (auto& s : of_row) s = V::zero();
  }

  template <bool kScaled>
  void step(int64_t k, typename V::Reg scale) {
    typename V::Reg w[R];
    for (int r = 0; r < R; ++r) {
      w[r] = W::load(at<W>(a.rows[row + r], k));
      if constexpr (kScaled) w[r] = V::mul(w[r], scale);
    }
    for (int t = 0; t < T; ++t) {
      const typename V::Reg x = V::load(a.x[token + t] + k);
      for (int r = 0; r < R; ++r) sum[r][t] = V::fma(w[r], x, sum[r][t]);
    }
  }

  // What is left of a row behind the last 16.
  template <bool kScaled>
  void last(int64_t k, int64_t n, typename V::Reg scale) {
    for (int t = 0; t < T; ++t) {
      const typename V::Reg x = V::load_part(a.x[token + t] + k, n);
      for (int r = 0; r < R; ++r) {
        typename V::Reg w = load_part<V, W>(at<W>(a.rows[row + r], k), n);
        if constexpr (kScaled) w = V::mul(w, scale);
        sum[r][t] = V::fma(w, x, sum[r][t]);
      }
    }
  }

  template <bool kScaled>
  void run(int64_t begin, int64_t end, typename V::Reg scale) {
    // The rows that the next call wants: the hardware does not see so far ahead.
    const int64_t ahead = kDotRows * a.columns;
    int64_t k = begin;
    for (; k + 64 <= end; k += 64) {
      for (int r = 0; r < R; ++r)
        for (int64_t line = 0; line < W::kBytes; ++line)
          __builtin_prefetch(at<W>(a.rows[row + r], k + ahead) + 64 * line);
      for (int64_t i = 0; i < 64; i += kLanes) step<kScaled>(k + i, scale);
    }
    for (; k + kLanes <= end; k += kLanes) step<kScaled>(k, scale);
    if (k < end) last<kScaled>(k, end - k, scale);
  }

  void store() const {
    for (int r = 0; r < R; ++r)
      for (int t = 0; t < T; ++t) a.out[(row + r) * kDotTokens + token + t] = V::sum(sum[r][t]);
  }
};

template <class V, class W, int R, int T>
void dots_block(const DotArgs& a, int row, int token) {
  Sums<V, W, R, T> sums(a, row, token);
  if constexpr (W::kBytes == 1) {
    for (int64_t b = 0, k = 0; k < a.columns; ++b, k += a.block_columns) {
      const int64_t end = k + a.block_columns < a.columns ? k + a.block_columns : a.columns;
      sums.template run<true>(k, end, V::broadcast(a.scales[b] * static_cast<float>(kE4M3Unit)));
    }
  } else {
    sums.template run<false>(0, a.columns, V::zero());
  }
  sums.store();
}

// Fewer tokens leave registers for more rows, and more rows hide the latency of the sums.
template <class V, class W, int T>
void dots_rows(const DotArgs& a, int token) {
  constexpr int R = T == 1 ? kDotRows : V::kRows;
  for (int row = 0; row < kDotRows; row += R) dots_block<V, W, R, T>(a, row, token);
}

template <class V, class W>
void dots(const DotArgs& a) {
  auto left = static_cast<int>(a.tokens);
  int token = 0;
  for (; left >= V::kTokens; left -= V::kTokens, token += V::kTokens)
    dots_rows<V, W, V::kTokens>(a, token);
  if constexpr (V::kTokens > 5)
    if (left == 5) return dots_rows<V, W, 5>(a, token);
  if constexpr (V::kTokens > 4)
    if (left == 4) return dots_rows<V, W, 4>(a, token);
  if constexpr (V::kTokens > 3)
    if (left == 3) return dots_rows<V, W, 3>(a, token);
  if (left == 2) return dots_rows<V, W, 2>(a, token);
  if (left == 1) return dots_rows<V, W, 1>(a, token);
}

// --- many tokens: tiles of float32 --------------------------------------------------------------

template <class V>
void decode_e4m3(const uint8_t* row, const float* scales, int64_t block_columns, int64_t first,
                 int64_t n, float* out) {
  for (int64_t k = 0; k < n;) {
    const int64_t b = (first + k) / block_columns;
    const int64_t block_end = (b + 1) * block_columns - first, end = block_end < n ? block_end : n;
    const typename V::Reg scale = V::broadcast(scales[b] * static_cast<float>(kE4M3Unit));
    for (; k + kLanes <= end; k += kLanes)
      V::store(out + k, V::mul(V::e4m3(row + first + k), scale));
    if (k < end) {
      alignas(64) float part[kLanes];
      V::store(part, V::mul(load_part<V, E4M3<V>>(row + first + k, end - k), scale));
      for (int64_t i = 0; k < end; ++i, ++k) out[k] = part[i];
    }
  }
}

template <class V>
void decode_bf16(const uint16_t* row, int64_t n, float* out) {
  int64_t k = 0;
  for (; k + kLanes <= n; k += kLanes) V::store(out + k, V::bf16(row + k));
  if (k == n) return;
  alignas(64) float part[kLanes];
  V::store(part, load_part<V, Bf16<V>>(row + k, n - k));
  for (int64_t i = 0; k < n; ++i, ++k) out[k] = part[i];
}

template <class V>
bool has_e4m3_nan(const uint8_t* codes, int64_t n) {
  typename V::CodeMax max;
  int64_t i = 0;
  for (; i + V::CodeMax::kCodes <= n; i += V::CodeMax::kCodes) max.look_at(codes + i);
  bool found = max.has_nan();
  for (; i < n; ++i) found |= (codes[i] & 0x7f) == 0x7f;
  return found;
}

template <class V>
void tile(const float* w, const float* x, int64_t rows, int64_t tokens, int64_t columns,
          float* lanes) {
  constexpr int R = V::kRows, T = V::kTokens;
  for (int64_t t0 = 0; t0 < tokens; t0 += T) {
    for (int64_t r0 = 0; r0 < rows; r0 += R) {
      float* to = lanes + (r0 * kTileTokens + t0) * kLanes;
      const float* wr = w + r0 * kTileColumns;
      const float* xt = x + t0 * kTileColumns;
      typename V::Reg sum[R][T];
      for (int r = 0; r < R; ++r)
        for (int t = 0; t < T; ++t) sum[r][t] = V::load(to + (r * kTileTokens + t) * kLanes);
      for (int64_t k = 0; k < columns; k += kLanes) {
        typename V::Reg wk[R];
        for (int r = 0; r < R; ++r) wk[r] = V::load(wr + r * kTileColumns + k);
        for (int t = 0; t < T; ++t) {
          const typename V::Reg xk = V::load(xt + t * kTileColumns + k);
          for (int r = 0; r < R; ++r) sum[r][t] = V::fma(wk[r], xk, sum[r][t]);
        }
      }
      for (int r = 0; r < R; ++r)
        for (int t = 0; t < T; ++t) V::store(to + (r * kTileTokens + t) * kLanes, sum[r][t]);
    }
  }
}

template <class V>
void reduce(const float* lanes, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = V::sum(V::load(lanes + i * kLanes));
}

// --- sums of rows -------------------------------------------------------------------------------

// Q queries by C runs of 16 columns.
template <class V, int Q, int C>
void add_weighted_block(const InnerLoops::Weighted& a, int64_t q0, int64_t c0) {
  typename V::Reg sum[Q][C];
  for (int q = 0; q < Q; ++q)
    for (int c = 0; c < C; ++c)
      sum[q][c] = V::load(a.sum + (q0 + q) * a.sum_stride + c0 + c * kLanes);
  for (int64_t s = 0; s < a.n; ++s) {
    typename V::Reg row[C];
    for (int c = 0; c < C; ++c) row[c] = V::load(a.rows + s * a.row_stride + c0 + c * kLanes);
    for (int q = 0; q < Q; ++q) {
      const typename V::Reg p = V::broadcast(a.p[(q0 + q) * a.p_stride + s]);
      for (int c = 0; c < C; ++c) sum[q][c] = V::fma(p, row[c], sum[q][c]);
    }
  }
  for (int q = 0; q < Q; ++q)
    for (int c = 0; c < C; ++c)
      V::store(a.sum + (q0 + q) * a.sum_stride + c0 + c * kLanes, sum[q][c]);
}

template <class V, int C>
void add_weighted_columns(const InnerLoops::Weighted& a, int64_t c0) {
  int64_t q = 0;
  for (; q + V::kRows <= a.queries; q += V::kRows) add_weighted_block<V, V::kRows, C>(a, q, c0);
  for (; q < a.queries; ++q) add_weighted_block<V, 1, C>(a, q, c0);
}

template <class V>
void add_weighted_rows(const InnerLoops::Weighted& a) {
  int64_t c = 0;
  for (; c + 2 * kLanes <= a.columns; c += 2 * kLanes) add_weighted_columns<V, 2>(a, c);
  for (; c + kLanes <= a.columns; c += kLanes) add_weighted_columns<V, 1>(a, c);
  if (c == a.columns) return;
  const int64_t left = a.columns - c;
  for (int64_t q = 0; q < a.queries; ++q) {
    float* sum = a.sum + q * a.sum_stride + c;
    typename V::Reg total = V::load_part(sum, left);
    for (int64_t s = 0; s < a.n; ++s)
      total = V::fma(V::broadcast(a.p[q * a.p_stride + s]),
                     V::load_part(a.rows + s * a.row_stride + c, left), total);
    alignas(64) float part[kLanes];
    V::store(part, total);
    for (int64_t i = 0; i < left; ++i) sum[i] = part[i];
  }
}

template <class V>
constexpr InnerLoops table() {
  static_assert(kDotRows % V::kRows == 0 && kDotTokens % V::kTokens == 0);
  return {.dots_e4m3 = dots<V, E4M3<V>>,
          .dots_bf16 = dots<V, Bf16<V>>,
          .dots_f32 = dots<V, F32<V>>,
          .decode_e4m3 = decode_e4m3<V>,
          .decode_bf16 = decode_bf16<V>,
          .has_e4m3_nan = has_e4m3_nan<V>,
          .tile = tile<V>,
          .reduce = reduce<V>,
          .add_weighted_rows = add_weighted_rows<V>};
}

}  // namespace dsr::cpu::loops
