// Sixteen lanes with AVX-512 (F, BW, DQ, VL): the V of loops.h, for the files that are compiled for
// it. Unnamed like what is theirs.
#pragma once

#include <immintrin.h>

#include "ops/cpu/avx512_sums.h"
#include "ops/cpu/tile_loops.h"

namespace dsr::cpu {
namespace {

struct Avx512 {
  static constexpr int kRegs = 32;
  using Tile = Avx512;
  using Rows = loops::Floats<Avx512>;
  static constexpr int kParts = 1, kTileR = 8, kTileT = 3;  // 24 sums
  static constexpr TileSize kSize = {.tokens = kTileTokens, .columns = 704, .panels = 3};
  static constexpr int kTokens = 6;
  static constexpr int rows_for(int) { return 4; }
  using Reg = __m512;

  static Reg zero() { return _mm512_setzero_ps(); }
  static Reg broadcast(float v) { return _mm512_set1_ps(v); }
  static Reg load(const float* p) { return _mm512_loadu_ps(p); }
  static Reg load_part(const float* p, int64_t n) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
  }
  static void store(float* p, Reg v) { _mm512_storeu_ps(p, v); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  static Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm512_div_ps(a, b); }
  static Reg min(Reg a, Reg b) { return _mm512_min_ps(a, b); }
  static Reg max(Reg a, Reg b) { return _mm512_max_ps(a, b); }
  static Reg power_of_two(Reg v) {
    const __m512i exponent = _mm512_add_epi32(_mm512_castps_si512(v), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
  }
  template <class Values>
  static void hold(Values& v) {
    asm("" : "+v"(v));
  }
  template <int R>
  static void sum_rows(const Reg (&v)[R], float* out) {
    if constexpr (R == 8)
      sum_eight(v, out);
    else
      sum_four(v, out);
  }
  static Reg bf16(const uint16_t* p) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  // An e4m3 code, its sign moved up by 8 and the rest by 7 bits, is the fp16 of 2^-8 its value,
  // subnormals included. (NaN is not: it would be 480.)
  static Reg e4m3(const uint8_t* p) {
    const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const __m256i wide = _mm256_slli_epi16(_mm256_cvtepi8_epi16(codes), 7);
    return _mm512_cvtph_ps(_mm256_and_si256(wide, _mm256_set1_epi16(static_cast<int16_t>(0xbf80))));
  }
  static constexpr int kE4M3Run = 2;
  static void e4m3_run(const uint8_t* p, Reg (&out)[kE4M3Run]) {
    const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m512i wide = _mm512_slli_epi16(_mm512_cvtepi8_epi16(codes), 7);
    const __m512i half = _mm512_and_si512(wide, _mm512_set1_epi16(static_cast<int16_t>(0xbf80)));
    out[0] = _mm512_cvtph_ps(_mm512_castsi512_si256(half));
    out[1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(half, 1));
  }
  using Pairs = __m512i;
  static Pairs load_pairs(const uint16_t* p) { return _mm512_loadu_si512(p); }
  static Reg dot_pairs(Reg sum, Pairs w, Pairs x) {
    const auto odd = [](Pairs v) {
      const __m512i mask = _mm512_set1_epi32(static_cast<int>(0xffff0000));
      return _mm512_castsi512_ps(_mm512_and_si512(v, mask));
    };
    const auto even = [](Pairs v) { return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16)); };
    return fma(even(w), even(x), fma(odd(w), odd(x), sum));
  }
  struct CodeMax {
    static constexpr int64_t kCodes = 64;
    __m512i max = _mm512_setzero_si512();
    void look_at(const uint8_t* p) {
      max = _mm512_max_epu8(max, _mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(0x7f)));
    }
    bool has_nan() const { return _mm512_cmpeq_epi8_mask(max, _mm512_set1_epi8(0x7f)) != 0; }
  };
};

}  // namespace
}  // namespace dsr::cpu
