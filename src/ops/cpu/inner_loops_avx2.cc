// The inner loops with AVX2, FMA and F16C: 16 lanes are two registers.
#include <immintrin.h>

#include "ops/cpu/loops.h"

namespace dsr::cpu {
namespace {

struct Avx2 {
  static constexpr int kRegs = 8;               // of 16 lanes
  static constexpr int kTileR = 2, kTileT = 3;  // 12 of 16 halves are sums
  static constexpr int kTokens = 3;
  static constexpr int rows_for(int tokens) { return tokens == 1 ? 4 : 2; }
  struct Reg {
    __m256 low, high;
  };

  static Reg zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static Reg broadcast(float v) { return {_mm256_set1_ps(v), _mm256_set1_ps(v)}; }
  static Reg load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static Reg load_part(const float* p, int64_t n) {
    alignas(32) float copy[kLanes] = {};
    for (int64_t i = 0; i < n; ++i) copy[i] = p[i];
    return load(copy);
  }
  static void store(float* p, Reg v) {
    _mm256_storeu_ps(p, v.low);
    _mm256_storeu_ps(p + 8, v.high);
  }
  static Reg fma(Reg a, Reg b, Reg c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static Reg mul(Reg a, Reg b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
  }
  static Reg add(Reg a, Reg b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
  }
  static Reg div(Reg a, Reg b) {
    return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
  }
  static Reg min(Reg a, Reg b) {
    return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
  }
  static Reg max(Reg a, Reg b) {
    return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
  }
  static Reg power_of_two(Reg v) {
    const auto half = [](__m256 of) {
      const __m256i exponent = _mm256_add_epi32(_mm256_castps_si256(of), _mm256_set1_epi32(127));
      return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
    };
    return {half(v.low), half(v.high)};
  }
  static float sum(Reg v) {
    const __m256 l8 = _mm256_add_ps(v.low, v.high);
    const __m128 l4 = _mm_add_ps(_mm256_castps256_ps128(l8), _mm256_extractf128_ps(l8, 1));
    const __m128 l2 = _mm_add_ps(l4, _mm_movehl_ps(l4, l4));
    return _mm_cvtss_f32(_mm_add_ss(l2, _mm_shuffle_ps(l2, l2, 1)));
  }
  template <class Values>
  static void hold(Values&) {}
  template <int R>
  static void sum_rows(const Reg (&v)[R], float* out) {
    for (int r = 0; r < R; ++r) out[r] = sum(v[r]);
  }
  static Reg bf16(const uint16_t* p) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const auto widen = [](__m128i half) {
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
    };
    return {widen(_mm256_castsi256_si128(bits)), widen(_mm256_extracti128_si256(bits, 1))};
  }
  // An e4m3 code, its sign moved up by 8 and the rest by 7 bits, is the fp16 of 2^-8 its value,
  // subnormals included. (NaN is not: it would be 480.)
  static Reg e4m3(const uint8_t* p) {
    const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const __m256i wide = _mm256_slli_epi16(_mm256_cvtepi8_epi16(codes), 7);
    const __m256i half = _mm256_and_si256(wide, _mm256_set1_epi16(static_cast<int16_t>(0xbf80)));
    return {_mm256_cvtph_ps(_mm256_castsi256_si128(half)),
            _mm256_cvtph_ps(_mm256_extracti128_si256(half, 1))};
  }
  static constexpr int kE4M3Run = 2;
  static void e4m3_run(const uint8_t* p, Reg (&out)[kE4M3Run]) {
    out[0] = e4m3(p);
    out[1] = e4m3(p + kLanes);
  }
  struct Pairs {
    __m256i low, high;
  };
  static Pairs load_pairs(const uint16_t* p) {
    const auto* v = reinterpret_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1)};
  }
  static Reg dot_pairs(const Reg& sum, const Pairs& w, const Pairs& x) {
    const auto odd = [](const Pairs& v) {
      const __m256i mask = _mm256_set1_epi32(static_cast<int>(0xffff0000));
      return Reg{_mm256_castsi256_ps(_mm256_and_si256(v.low, mask)),
                 _mm256_castsi256_ps(_mm256_and_si256(v.high, mask))};
    };
    const auto even = [](const Pairs& v) {
      return Reg{_mm256_castsi256_ps(_mm256_slli_epi32(v.low, 16)),
                 _mm256_castsi256_ps(_mm256_slli_epi32(v.high, 16))};
    };
    return fma(even(w), even(x), fma(odd(w), odd(x), sum));
  }
  struct CodeMax {
    static constexpr int64_t kCodes = 32;
    __m256i max = _mm256_setzero_si256();
    void look_at(const uint8_t* p) {
      const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
      max = _mm256_max_epu8(max, _mm256_and_si256(codes, _mm256_set1_epi8(0x7f)));
    }
    bool has_nan() const {
      return _mm256_movemask_epi8(_mm256_cmpeq_epi8(max, _mm256_set1_epi8(0x7f))) != 0;
    }
  };
};

}  // namespace

const InnerLoops& inner_loops_avx2() {
  static constexpr InnerLoops kTable = loops::table<Avx2>();
  return kTable;
}

}  // namespace dsr::cpu
