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

}  // namespace
}  // namespace dsr::cpu
