// Products of e4m3 codes with six to twelve tokens for AVX2: of inner_loops_avx2.cc alone.
//
// The activations of so many tokens leave the first-level cache, and with two registers to the
// lanes of a sum there is no room for many sums. So a row meets half of the lanes at a time, those
// of even or of odd columns (raised_dots.h), of a block of columns. What it meets there lies in the
// order in which it is read, is read where it is multiplied, and stays in the first-level cache for
// all rows of a group, which stay in the second-level one.
#pragma once

#include <immintrin.h>

#include "ops/cpu/raised_dots.h"

namespace dsr::cpu {
namespace {

constexpr int kPackedFrom = 6;
constexpr int64_t kPackedColumns = 1024;  // of a block, the most
constexpr int64_t kPackedRows = 32;       // of a group, the most

// Columns of each block but the last, which may have fewer: a multiple of 16, as K is.
inline int64_t packed_block(int64_t K) {
  const int64_t blocks = (K + kPackedColumns - 1) / kPackedColumns;
  return (K / kLanes + blocks - 1) / blocks * kLanes;
}

// To [block][parity][16 columns][token][8].
inline bool raise_to_packed(const ToRaise& a) {
  if (a.columns == 0 || a.columns % kLanes != 0) return false;
  const int64_t block = packed_block(a.columns);
  int64_t end = 0, to_odd = 0;  // of the block at hand; from even to odd columns
  float* to = a.all;
  return raise_columns(a, [&](int64_t k, int64_t t, const Parities& v) {
    if (k == end) {
      if (k > 0) to += to_odd;
      end = a.columns - k < block ? a.columns : k + block;
      to_odd = (end - k) / 2 * a.tokens;
    }
    float* at = to + t * 8;
    _mm256_store_ps(at, v.even);
    _mm256_store_ps(at + to_odd, v.odd);
    if (t + 1 == a.tokens) to += a.tokens * 8;
  });
}

// Half of the lanes of one row's sums: [token][8].
template <int T>
using HalfLanes = float[T][8];

// Adds the products of a row's even (0) or odd (1) columns.
template <int T, int Parity>
void add_packed_row(const uint8_t* codes, const float* x, int64_t columns, bool begin,
                    HalfLanes<T>& lanes) {
  __m256 sum[T];
#pragma GCC unroll 12
  for (int t = 0; t < T; ++t) sum[t] = begin ? _mm256_setzero_ps() : _mm256_load_ps(lanes[t]);
#pragma GCC unroll 2
  for (int64_t k = 0; k < columns; k += kLanes, x += T * 8) {
    const __m256 w = raised_of<Parity>(codes + k);
#pragma GCC unroll 12
    for (int t = 0; t < T; ++t) sum[t] = _mm256_fmadd_ps(w, _mm256_load_ps(x + t * 8), sum[t]);
  }
#pragma GCC unroll 12
  for (int t = 0; t < T; ++t) _mm256_store_ps(lanes[t], sum[t]);
}

// Row r of all streams, one after the other, and of what comes next.
inline const uint8_t* packed_row(const DotArgs& a, int64_t r) {
  const bool is_next = r >= kDotRows * a.steps;
  if (is_next) r -= kDotRows * a.steps;
  const void* const* rows = is_next ? a.next : a.rows;
  return static_cast<const uint8_t*>(rows[r / a.steps]) + r % a.steps * a.row_bytes;
}

template <class V, int T>
class PackedGroup {
 public:
  explicit PackedGroup(const DotArgs& a) : a_(a), block_(packed_block(a.columns)) {}

  // Rows [first, first + n), n a multiple of 4.
  void run(int64_t first, int64_t n) {
    for (int64_t r = 0; r < n; ++r) {
      row_[r] = packed_row(a_, first + r);
      next_[r] = packed_row(a_, first + n + r);
    }
    n_ = n;
    const float* x = a_.x[0];
    for (int64_t k = 0; k < a_.columns; k += block_) {
      const int64_t columns = a_.columns - k < block_ ? a_.columns - k : block_;
      add<0>(k, columns, x);
      add<1>(k, columns, x + columns / 2 * T);
      x += columns * T;
    }
    for (int64_t r = 0; r < n; r += kDotRows) store(first + r, r);
  }

 private:
  template <int Parity>
  void add(int64_t k, int64_t columns, const float* x) {
    const int64_t asked = k + Parity * columns / 2, asked_end = asked + columns / 2;
    for (int64_t r = 0; r < n_; ++r) {
      // A share of the next group's lines each time, so that they come while this one is computed.
      for (int64_t i = (asked + 63) / 64 * 64; i < asked_end; i += 64)
        __builtin_prefetch(next_[r] + i, 0, 2);
      if (Parity == 0) {
        const int64_t soon = r + 2 < n_ ? r + 2 : r + 2 - n_;
        const uint8_t* codes = r + 2 < n_                 ? row_[soon] + k
                               : k + columns < a_.columns ? row_[soon] + k + columns
                                                          : next_[soon];
        for (int64_t i = 0; i < columns; i += 64) __builtin_prefetch(codes + i, 0, 3);
      }
      add_packed_row<T, Parity>(row_[r] + k, x, columns, k == 0, lanes_[r][Parity]);
    }
  }

  // The sums of rows [r, r + 4) of the group, the first of which is row `flat` of all.
  void store(int64_t flat, int64_t r) const {
    for (int t = 0; t < T; ++t) {
      Parities v[kDotRows];
      for (int64_t i = 0; i < kDotRows; ++i)
        v[i] = {_mm256_load_ps(lanes_[r + i][0][t]), _mm256_load_ps(lanes_[r + i][1][t])};
      float sums[kDotRows];
      sum_parities<V, kDotRows>(v, sums);
      for (int64_t i = 0; i < kDotRows; ++i)
        a_.out[(flat + i) / a_.steps][(flat + i) % a_.steps * a_.row_stride + t * a_.token_stride] =
            sums[i];
    }
  }

  const DotArgs& a_;
  const int64_t block_;
  int64_t n_ = 0;
  const uint8_t *row_[kPackedRows], *next_[kPackedRows];
  alignas(64) HalfLanes<T> lanes_[kPackedRows][2];
};

template <class V, int T = kPackedFrom>
void dots_of_packed(const DotArgs& a) {
  if constexpr (T < kDotTokens)
    if (a.tokens > T) return dots_of_packed<V, T + 1>(a);
  const int64_t n = kDotRows * a.steps;
  PackedGroup<V, T> group(a);
  for (int64_t first = 0; first < n; first += kPackedRows)
    group.run(first, n - first < kPackedRows ? n - first : kPackedRows);
}

}  // namespace
}  // namespace dsr::cpu
