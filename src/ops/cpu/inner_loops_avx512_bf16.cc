// AVX-512 with the instruction that multiplies pairs of bf16 (--cpu-math fast).
#include "ops/cpu/avx512.h"

namespace dsr::cpu {
namespace {

void tile_bf16(const uint16_t* w, const uint16_t* x, int64_t rows, int64_t tokens, int64_t columns,
               float* lanes) {
  constexpr int R = Avx512::kRows, T = Avx512::kTokens;
  constexpr int64_t kPairs = 2 * kLanes;
  const auto load = [](const uint16_t* p) {
    return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p));
  };
  for (int64_t t0 = 0; t0 < tokens; t0 += T) {
    for (int64_t r0 = 0; r0 < rows; r0 += R) {
      float* to = lanes + (r0 * kTileTokens + t0) * kLanes;
      __m512 sum[R][T];
      for (int r = 0; r < R; ++r)
        for (int t = 0; t < T; ++t)
          sum[r][t] = _mm512_loadu_ps(to + (r * kTileTokens + t) * kLanes);
      for (int64_t k = 0; k < columns; k += kPairs) {
        __m512bh wk[R];
        for (int r = 0; r < R; ++r) wk[r] = load(w + (r0 + r) * kTileColumns + k);
        for (int t = 0; t < T; ++t) {
          const __m512bh xk = load(x + (t0 + t) * kTileColumns + k);
          for (int r = 0; r < R; ++r) sum[r][t] = _mm512_dpbf16_ps(sum[r][t], wk[r], xk);
        }
      }
      for (int r = 0; r < R; ++r)
        for (int t = 0; t < T; ++t)
          _mm512_storeu_ps(to + (r * kTileTokens + t) * kLanes, sum[r][t]);
    }
  }
}

constexpr InnerLoops with_bf16() {
  InnerLoops table = loops::table<Avx512>();
  table.tile_bf16 = tile_bf16;
  return table;
}

}  // namespace

const InnerLoops& inner_loops_avx512_bf16() {
  static constexpr InnerLoops kTable = with_bf16();
  return kTable;
}

}  // namespace dsr::cpu
