// Sums of lanes with AVX-512, for the files that are compiled for it. Unnamed like what is theirs.
#pragma once

#include <immintrin.h>

namespace dsr::cpu {
namespace {

// The 16 lanes of each of four registers by the tree of inner_loops.h, a round for all at once.
inline void sum_four(const __m512 (&v)[4], float* out) {
  // [a l8 | b l8]
  const auto add_halves = [](__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  };
  const __m512 a = add_halves(v[0], v[1]), b = add_halves(v[2], v[3]);
  const __m512 l4 =
      _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  const __m512 l2 = _mm512_add_ps(l4, _mm512_permute_ps(l4, 0x4e));
  const __m512 l1 = _mm512_add_ps(l2, _mm512_permute_ps(l2, 0xb1));
  const __m512 all = _mm512_maskz_compress_ps(0x1111, l1);  // of every fourth place
  _mm_storeu_ps(out, _mm512_castps512_ps128(all));
}

// The same of eight: each round adds what a blend leaves in its place of one register to what a
// shuffle brings of the other, half as many shuffles.
inline void sum_eight(const __m512 (&v)[8], float* out) {
  // [a l8 | b l8]
  const auto add_halves = [](__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_mask_mov_ps(a, 0xff00, b), _mm512_shuffle_f32x4(a, b, 0x4e));
  };
  // [a0 b0 a2 b2] + [a1 b1 a3 b3] of the quarters
  const __m512i odd = _mm512_setr_epi32(4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 24, 25, 26, 27);
  const auto add_quarters = [&](__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_mask_mov_ps(a, 0xf0f0, b), _mm512_permutex2var_ps(a, odd, b));
  };
  const __m512 a = add_quarters(add_halves(v[0], v[4]), add_halves(v[2], v[6]));
  const __m512 b = add_quarters(add_halves(v[1], v[5]), add_halves(v[3], v[7]));
  const __m512 l2 = _mm512_add_ps(
      _mm512_mask_mov_ps(a, 0xcccc, b),
      _mm512_castpd_ps(_mm512_shuffle_pd(_mm512_castps_pd(a), _mm512_castps_pd(b), 0x55)));
  const __m512 l1 = _mm512_add_ps(l2, _mm512_permute_ps(l2, 0xb1));
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 0, 0, 0, 0, 0, 0, 0);
  _mm256_storeu_ps(out, _mm512_castps512_ps256(_mm512_permutexvar_ps(even, l1)));
}

}  // namespace
}  // namespace dsr::cpu
