// The inner loops with AVX-512 (F, BW, DQ, VL).
#include <immintrin.h>

#include "ops/cpu/loops.h"

namespace dsr::cpu {
namespace {

struct Avx512 {
  static constexpr int kRows = 4, kTokens = 6;  // 24 of 32 registers are sums
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
  static float sum(Reg v) {
    const __m256 l8 = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 l4 = _mm_add_ps(_mm256_castps256_ps128(l8), _mm256_extractf128_ps(l8, 1));
    const __m128 l2 = _mm_add_ps(l4, _mm_movehl_ps(l4, l4));
    return _mm_cvtss_f32(_mm_add_ss(l2, _mm_shuffle_ps(l2, l2, 1)));
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

const InnerLoops& inner_loops_avx512() {
  static constexpr InnerLoops kTable = loops::table<Avx512>();
  return kTable;
}

}  // namespace dsr::cpu
