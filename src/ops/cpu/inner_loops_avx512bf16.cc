// The loops of fast math with AVX-512 BF16.
#include <immintrin.h>

#include "ops/cpu/avx512_sums.h"
#include "ops/cpu/tile_loops.h"

namespace dsr::cpu {
namespace {

struct Avx512Bf16 {
  static constexpr int kParts = 1, kTileR = 8, kTileT = 3;  // 24 of 32 registers are sums
  using Reg = __m512;
  using Pairs = __m512i;

  static Reg zero() { return _mm512_setzero_ps(); }
  static Reg broadcast(float v) { return _mm512_set1_ps(v); }
  static Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static Reg load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Reg v) { _mm512_storeu_ps(p, v); }
  static void hold(Pairs& v) { asm("" : "+v"(v)); }
  template <int R>
  static void sum_rows(const Reg (&v)[R], float* out) {
    sum_eight(v, out);
  }
  static Pairs load_pairs(const uint16_t* p) { return _mm512_loadu_si512(p); }
  static void store_pairs(uint16_t* p, Pairs v) { _mm512_storeu_si512(p, v); }
  static constexpr bool kRoundsPairs = true;
  static Pairs round_pairs(Reg first, Reg second) {
    return (__m512i)_mm512_cvtne2ps_pbh(second, first);
  }
  static Reg dot_pairs(Reg sum, Pairs w, Pairs x) {
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x);
  }
};

void round_bf16(const float* x, int64_t n, uint16_t* out) {
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    const __m512 first = _mm512_loadu_ps(x + i), second = _mm512_loadu_ps(x + i + kLanes);
    Avx512Bf16::store_pairs(out + i, Avx512Bf16::round_pairs(first, second));
  }
  for (int64_t left; i < n; i += left) {
    left = n - i < kLanes ? n - i : kLanes;
    const auto mask = static_cast<__mmask16>((1u << left) - 1);
    const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, x + i));
    _mm256_mask_storeu_epi16(out + i, mask, (__m256i)rounded);
  }
}

}  // namespace

const FastLoops& fast_loops_avx512bf16() {
  static constexpr FastLoops kLoops = {
      .order = loops::order_of<Avx512Bf16>(),
      .tile = loops::tile<Avx512Bf16, loops::Bf16Pairs<Avx512Bf16>>,
      .round_bf16 = round_bf16,
      .takes_raw = true};
  return kLoops;
}

}  // namespace dsr::cpu
