// Products of e4m3 codes with up to five tokens for AVX2: of inner_loops_avx2.cc alone.
//
// A code in the place of a float's sign, exponent and mantissa, s 0000 eeee mmm 0..., is 2^-120 its
// value, subnormal ones included, as both types mean the same by an exponent of 0. That takes five
// instructions for 16 codes, with their load, where 2^-8 takes seven and a look whether one is
// subnormal. So activations are raised by 2^112 more than the codes' 2^8. Every product is the same
// number as before, so are the sums, bit for bit.
//
// Columns 2 i and 2 i + 1 come out in the halves of 32 bits: lanes of even columns are one
// register, those of odd ones the other, and activations lie in that order.
#pragma once

#include <immintrin.h>

#include "ops/cpu/dot_loops.h"
#include "ops/cpu/tile_loops.h"

namespace dsr::cpu {
namespace {

constexpr float kRaise = 0x1p112f;
constexpr float kRaiseLimit = 0x1p16f;  // the first scaled activation that raised is no float32
constexpr unsigned kSubnormalsAreZero = 0x40;  // of MXCSR

// Of two bf16 in 32 bits each, one as float32.
inline __m256 lower_bf16(__m256i pairs) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
}
inline __m256 upper_bf16(__m256i pairs) {
  const __m256i mask = _mm256_set1_epi32(static_cast<int>(0xffff0000));
  return _mm256_castsi256_ps(_mm256_and_si256(pairs, mask));
}

// Eight even and eight odd columns, or the lanes of their sums.
struct Parities {
  __m256 even, odd;
};

// Of columns 0 to 7 and 8 to 15.
inline Parities parities_of(__m256 low, __m256 high) {
  const auto in_order = [](__m256 v) {
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), 0xd8));
  };
  return {in_order(_mm256_shuffle_ps(low, high, 0x88)),
          in_order(_mm256_shuffle_ps(low, high, 0xdd))};
}

inline Parities fma(const Parities& w, const Parities& x, const Parities& sum) {
  return {_mm256_fmadd_ps(w.even, x.even, sum.even), _mm256_fmadd_ps(w.odd, x.odd, sum.odd)};
}
inline Parities load_parities(const float* x) { return {_mm256_load_ps(x), _mm256_load_ps(x + 8)}; }

// Calls store(k, t, 16 columns of token t) for k = 0, 16, ... columns, zeros behind the last one.
// False: see InnerLoops::Raised. Not where subnormal numbers count as zero, which whoever called
// may have asked for.
template <class Store>
bool raise_columns(const ToRaise& a, const Store& store) {
  if ((_mm_getcsr() & kSubnormalsAreZero) != 0 || a.block_columns % kLanes != 0) return false;
  const __m256 raise = _mm256_set1_ps(kRaise), limit = _mm256_set1_ps(kRaiseLimit);
  const __m256 no_sign = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  __m256 beyond = _mm256_setzero_ps();
  const auto run = [&](const float* x, int64_t k, int64_t t, float scale)
      __attribute__((always_inline)) {
    const __m256 factor = _mm256_set1_ps(scale * static_cast<float>(loops::kE4M3Unit));
    const __m256 low = _mm256_mul_ps(_mm256_loadu_ps(x), factor);
    const __m256 high = _mm256_mul_ps(_mm256_loadu_ps(x + 8), factor);
    const auto is_beyond = [&](__m256 v) __attribute__((always_inline)) {  // or NaN
      return _mm256_cmp_ps(_mm256_and_ps(v, no_sign), limit, _CMP_NLT_UQ);
    };
    beyond = _mm256_or_ps(beyond, _mm256_or_ps(is_beyond(low), is_beyond(high)));
    const Parities v = parities_of(low, high);
    store(k, t, {_mm256_mul_ps(v.even, raise), _mm256_mul_ps(v.odd, raise)});
  };
  const int64_t whole = a.columns / kLanes * kLanes;
  int64_t k = 0;
  for (int64_t b = 0; k < whole; ++b) {
    const int64_t block_end = (b + 1) * a.block_columns;
    for (; k < whole && k < block_end; k += kLanes)
      for (int64_t t = 0; t < a.tokens; ++t) run(a.x[t] + k, k, t, a.scales[b]);
  }
  for (int64_t t = 0; t < a.tokens && k < a.columns; ++t) {
    alignas(32) float part[kLanes] = {};
    for (int64_t i = 0; i < a.columns - k; ++i) part[i] = a.x[t][k + i];
    run(part, k, t, a.scales[k / a.block_columns]);
  }
  return _mm256_movemask_ps(beyond) == 0;
}

// Columns k to k + 15 at k of the token's own row.
inline bool raise_to_rows(const ToRaise& a) {
  return raise_columns(a, [&](int64_t k, int64_t t, const Parities& v) {
    float* to = a.all + t * a.stride + k;
    _mm256_store_ps(to, v.even);
    _mm256_store_ps(to + 8, v.odd);
  });
}

// Codes as 2^-120 of their values.
inline Parities raised(const uint8_t* codes) {
  const __m256i wide =
      _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
  __m256i pairs =
      _mm256_and_si256(_mm256_slli_epi16(wide, 4), _mm256_set1_epi16(static_cast<int16_t>(0x87f0)));
  asm("" : "+x"(pairs));  // GCC 12 would move the two before what follows: one more
  return {lower_bf16(pairs), upper_bf16(pairs)};
}
// Those of the even (0) or of the odd (1) columns.
template <int Parity>
__m256 raised_of(const uint8_t* codes) {
  const __m256i wide =
      _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
  __m256i values = _mm256_and_si256(_mm256_slli_epi32(wide, Parity == 0 ? 20 : 4),
                                    _mm256_set1_epi32(static_cast<int>(0x87f00000)));
  asm("" : "+x"(values));  // read once, whatever it is multiplied with
  return _mm256_castsi256_ps(values);
}

// The sums of R rows' lanes.
template <class V, int R>
void sum_parities(const Parities (&v)[R], float* out) {
  typename V::Reg lanes[R];
  for (int r = 0; r < R; ++r) {
    const __m256 low = _mm256_unpacklo_ps(v[r].even, v[r].odd);
    const __m256 high = _mm256_unpackhi_ps(v[r].even, v[r].odd);
    lanes[r] = {_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31)};
  }
  V::template sum_rows<R>(lanes, out);
}

// The sums of R rows and T tokens, from the streams `row` and the tokens `token` of a step on.
template <class V, int R, int T>
struct RaisedSums {
  using Codes = loops::E4M3<V>;

  Parities sum[T][R];
  const DotArgs& a;
  const loops::DotStep& s;
  int row, token;

  const uint8_t* codes(int r, int64_t k) const { return s.row[row + r] + k; }
  const float* x(int t, int64_t k) const { return a.x[token + t] + k; }

  // Calls add(k, whether to ask for lines) for each whole 16 columns.
  template <class Add>
  [[gnu::always_inline]] void each_whole(bool asks, const Add& add) const {
    int64_t k = 0;
    for (; k + 64 <= a.columns; k += 64)
#pragma GCC unroll 4
      for (int64_t i = 0; i < 64; i += kLanes) add(k + i, asks && i == 0);
    for (; k + kLanes <= a.columns; k += kLanes) add(k, false);
  }

  // All lanes at once.
  void add_whole(bool asks) {
#pragma GCC unroll 2
    for (int t = 0; t < T; ++t)
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sum[t][r] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    each_whole(
        asks, [&](int64_t k, bool asks_here) __attribute__((always_inline)) {
          Parities v[T];
#pragma GCC unroll 2
          for (int t = 0; t < T; ++t) v[t] = load_parities(x(t, k));
#pragma GCC unroll 4
          for (int r = 0; r < R; ++r) {
            if (asks_here) loops::ask<Codes>(s, row + r, k);
            const Parities w = raised(codes(r, k));
#pragma GCC unroll 2
            for (int t = 0; t < T; ++t) sum[t][r] = fma(w, v[t], sum[t][r]);
          }
        });
  }

  // The lanes of even columns, then those of odd ones, each with twice as many sums at once.
  void add_whole_by_parity(bool asks) {
    __m256 even[T][R], odd[T][R];
    add_parity<0>(asks, even);
    add_parity<1>(false, odd);
    for (int t = 0; t < T; ++t)
      for (int r = 0; r < R; ++r) sum[t][r] = {even[t][r], odd[t][r]};
  }
  template <int Parity>
  [[gnu::always_inline]] void add_parity(bool asks, __m256 (&sums)[T][R]) {
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t)
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sums[t][r] = _mm256_setzero_ps();
    each_whole(
        asks, [&](int64_t k, bool asks_here) __attribute__((always_inline)) {
          __m256 v[T];
#pragma GCC unroll 4
          for (int t = 0; t < T; ++t) v[t] = _mm256_load_ps(x(t, k) + Parity * 8);
#pragma GCC unroll 4
          for (int r = 0; r < R; ++r) {
            if (asks_here) loops::ask<Codes>(s, row + r, k);
            const __m256 w = raised_of<Parity>(codes(r, k));
#pragma GCC unroll 4
            for (int t = 0; t < T; ++t) sums[t][r] = _mm256_fmadd_ps(w, v[t], sums[t][r]);
          }
        });
  }

  // What is left behind the last whole 16, if anything; activations are zero behind it.
  void add_last() {
    const int64_t k = a.columns / kLanes * kLanes, n = a.columns - k;
    for (int r = 0; r < R && n > 0; ++r) {
      alignas(16) uint8_t part[kLanes] = {};
      for (int64_t i = 0; i < n; ++i) part[i] = codes(r, k)[i];
      for (int t = 0; t < T; ++t) sum[t][r] = fma(raised(part), load_parities(x(t, k)), sum[t][r]);
    }
  }

  void store(int64_t step) const {
    for (int t = 0; t < T; ++t) {
      float sums[R];
      sum_parities<V, R>(sum[t], sums);
      for (int r = 0; r < R; ++r)
        a.out[row + r][step * a.row_stride + (token + t) * a.token_stride] = sums[r];
    }
  }
};

template <class V, int R, int T>
void raised_dots_of(const DotArgs& a, const loops::DotStep& s, int64_t step, int token) {
  for (int row = 0; row < kDotRows; row += R) {
    RaisedSums<V, R, T> sums{{}, a, s, row, token};
    if constexpr (T < 3)
      sums.add_whole(token == 0);
    else
      sums.add_whole_by_parity(token == 0);
    sums.add_last();
    sums.store(step);
  }
}

// Up to three tokens at once; four are twice two, five are three and two.
template <class V>
void dots_of_raised(const DotArgs& a) {
  for (int64_t step = 0; step < a.steps; ++step) {
    const loops::DotStep s = loops::dot_step(a, step);
    if (a.tokens == 1) raised_dots_of<V, 4, 1>(a, s, step, 0);
    if (a.tokens == 3 || a.tokens == 5) raised_dots_of<V, 4, 3>(a, s, step, 0);
    if (a.tokens == 2 || a.tokens == 4) raised_dots_of<V, 2, 2>(a, s, step, 0);
    if (a.tokens > 3) raised_dots_of<V, 2, 2>(a, s, step, a.tokens == 4 ? 2 : 3);
  }
}

}  // namespace
}  // namespace dsr::cpu
