// The tile of bf16 with AVX-512 BF16.
#include <immintrin.h>

#include "ops/cpu/avx512_sums.h"
#include "ops/cpu/tile_loops.h"

namespace dsr::cpu {
namespace {

struct Avx512Bf16 {
  static constexpr int kTileR = 8, kTileT = 3;  // 24 of 32 registers are sums
  using Reg = __m512;
  using Pairs = __m512i;

  static Reg zero() { return _mm512_setzero_ps(); }
  static Reg load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Reg v) { _mm512_storeu_ps(p, v); }
  static void hold(Pairs& v) { asm("" : "+v"(v)); }
  template <int R>
  static void sum_rows(const Reg (&v)[R], float* out) {
    sum_eight(v, out);
  }
  static Pairs load_pairs(const uint16_t* p) { return _mm512_loadu_si512(p); }
  static Reg dot_pairs(Reg sum, Pairs w, Pairs x) {
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x);
  }
};

}  // namespace

void fast_tile_avx512bf16(const FastTileArgs& a) {
  loops::tile<Avx512Bf16, loops::Bf16Pairs<Avx512Bf16>>(a);
}

}  // namespace dsr::cpu
