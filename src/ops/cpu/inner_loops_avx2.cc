// The inner loops with AVX2, FMA and F16C: 16 lanes are two registers.
#include <immintrin.h>

#include "ops/cpu/loops.h"
#include "ops/cpu/packed_dots.h"
#include "ops/cpu/raised_dots.h"

namespace dsr::cpu {
namespace {

// The sums of four rows, whose lanes i and i + 8 were added, by the tree of inner_loops.h.
void sum_four(const __m256 (&v)[4], float* out) {
  // [a l4 | b l4]
  const auto add_halves = [](__m256 a, __m256 b) {
    return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
  };
  const __m256d a = _mm256_castps_pd(add_halves(v[0], v[2]));
  const __m256d b = _mm256_castps_pd(add_halves(v[1], v[3]));
  const __m256 l2 = _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(a, b)),
                                  _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)));
  const __m256 l1 = _mm256_add_ps(l2, _mm256_permute_ps(l2, 0xb1));
  const __m128 all = _mm_shuffle_ps(_mm256_castps256_ps128(l1), _mm256_extractf128_ps(l1, 1), 0x88);
  _mm_storeu_ps(out, all);
}

// Eight lanes of 16: half of the columns. 12 of 16 registers are sums of a tile, which 7 loads of
// 8 columns serve; with 16 lanes in two registers, 6 sums of half as many, it would be 10.
struct Avx2Half {
  static constexpr int kParts = 2, kTileR = 4, kTileT = 3;
  static constexpr TileSize kSize = {.tokens = 60, .columns = 1024, .panels = 2};
  using Rows = loops::NarrowRows<Avx2Half>;
  using Reg = __m256;
  using Pairs = __m256i;

  static Reg zero() { return _mm256_setzero_ps(); }
  static Reg broadcast(float v) { return _mm256_set1_ps(v); }
  static Reg load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Reg v) { _mm256_storeu_ps(p, v); }
  static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  template <class Values>
  static void hold(Values& v) {
    asm("" : "+x"(v));
  }
  template <int Part>
  static Reg narrow(const std::byte* p) {
    const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return Part == 0 ? lower_bf16(both) : upper_bf16(both);
  }
  template <int R>
  static void sum_rows(const Reg (&v)[R], float* out) {
    sum_four(v, out);
  }
  static Reg bf16(const uint16_t* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static Pairs load_pairs(const uint16_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static Reg dot_pairs(Reg sum, Pairs w, Pairs x) {
    return fma(lower_bf16(w), lower_bf16(x), fma(upper_bf16(w), upper_bf16(x), sum));
  }
};

struct Avx2 {
  using Tile = Avx2Half;
  static constexpr int kRegs = 8;  // of 16 lanes
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
  template <int R>
  static void sum_rows(const Reg (&v)[R], float* out) {
    __m256 l8[4];
    for (int r = 0; r < 4; ++r) l8[r] = _mm256_add_ps(v[r % R].low, v[r % R].high);
    float sums[4];
    sum_four(l8, sums);
    for (int r = 0; r < R; ++r) out[r] = sums[r];
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
  // A normal one, s eeee mmm, is the bf16 s0111eee emmm0000 of 2^-8 its value: 6 instructions for
  // 16 codes where those of fp16 are 9.
  static Reg e4m3_normal(const uint8_t* p) {
    __m256i bf16 = narrow_e4m3_normal(p);
    asm("" : "+x"(bf16));  // GCC 12 would move the two before what follows: one more
    return {lower_bf16(bf16), upper_bf16(bf16)};
  }
  // As narrow rows have them.
  static __m256i narrow_e4m3_normal(const uint8_t* p) {
    const __m256i twice =
        _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    // Codes j and j + 8 to the upper bytes of the halves of 32 bits, zeros beside them.
    const __m256i pairs = _mm256_shuffle_epi8(
        twice, _mm256_setr_epi8(-1, 0, -1, 8, -1, 1, -1, 9, -1, 2, -1, 10, -1, 3, -1, 11,  //
                                -1, 4, -1, 12, -1, 5, -1, 13, -1, 6, -1, 14, -1, 7, -1, 15));
    const __m256i moved = _mm256_and_si256(_mm256_srai_epi16(pairs, 4),
                                           _mm256_set1_epi16(static_cast<int16_t>(0x87f0)));
    return _mm256_or_si256(moved, _mm256_set1_epi16(0x3800));
  }
  // Weights of a normal distribution have a subnormal code in some ten thousand.
  struct CodeMin {
    __m256i min = _mm256_set1_epi8(-1);
    void look_at(const uint8_t* p) {  // 64 codes
      const auto* v = reinterpret_cast<const __m256i*>(p);
      const __m256i exponent = _mm256_set1_epi8(0x78);
      min = _mm256_min_epu8(min, _mm256_and_si256(_mm256_loadu_si256(v), exponent));
      min = _mm256_min_epu8(min, _mm256_and_si256(_mm256_loadu_si256(v + 1), exponent));
    }
    bool has_subnormal() const {
      return _mm256_movemask_epi8(_mm256_cmpeq_epi8(min, _mm256_setzero_si256())) != 0;
    }
  };
  static constexpr int kE4M3Run = 4;
  static void e4m3_run(const uint8_t* p, Reg (&out)[kE4M3Run]) {
    CodeMin min;
    min.look_at(p);
    if (__builtin_expect(min.has_subnormal(), 0)) {
      for (int i = 0; i < kE4M3Run; ++i) out[i] = e4m3(p + i * kLanes);
      return;
    }
#pragma GCC unroll 4
    for (int i = 0; i < kE4M3Run; ++i) out[i] = e4m3_normal(p + i * kLanes);
  }
  static constexpr bool kNarrow = true;
  static void store_narrow(__m256i pairs, std::byte* to) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), pairs);
  }
  static void store_narrow(const Reg& v, std::byte* to) {  // of values that are bf16
    const __m256i low = _mm256_srli_epi32(_mm256_castps_si256(v.low), 16);
    store_narrow(_mm256_or_si256(low, _mm256_castps_si256(upper_bf16(_mm256_castps_si256(v.high)))),
                 to);
  }
  static void pack_narrow_run(const uint8_t* p, std::byte* to, int64_t step) {
    CodeMin min;
    min.look_at(p);
    if (__builtin_expect(min.has_subnormal(), 0)) {
      for (int i = 0; i < kE4M3Run; ++i) store_narrow(e4m3(p + i * kLanes), to + i * step);
      return;
    }
#pragma GCC unroll 4
    for (int i = 0; i < kE4M3Run; ++i)
      store_narrow(narrow_e4m3_normal(p + i * kLanes), to + i * step);
  }
  static void pack_narrow(const uint16_t* p, std::byte* to) {
    const __m256i v =
        _mm256_permute4x64_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), 0xd8);
    store_narrow(_mm256_unpacklo_epi16(v, _mm256_srli_si256(v, 8)), to);
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

bool raise(const ToRaise& a) {
  return a.tokens < kPackedFrom ? raise_to_rows(a) : raise_to_packed(a);
}

template <class V>
void raised_dots(const DotArgs& a) {
  a.tokens < kPackedFrom ? dots_of_raised<V>(a) : dots_of_packed<V>(a);
}

// What fused multiply-adds with this float take, of a few hundred; the least of some tries, as
// others may interrupt it.
uint64_t cycles_of_fma(uint32_t bits) {
  const __m256 factor = _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(bits)));
  __m256 sum = _mm256_setzero_ps(), x = _mm256_set1_ps(kRaise);
  uint64_t least = ~uint64_t{0};
  for (int i = 0; i < 5; ++i) {
    const uint64_t begin = __rdtsc();
    for (int j = 0; j < 256; ++j) {
      asm("" : "+x"(x));  // each time anew
      sum = _mm256_fmadd_ps(factor, x, sum);
    }
    asm volatile("" : : "x"(sum));
    const uint64_t took = __rdtsc() - begin;
    least = took < least ? took : least;
  }
  return least;
}

}  // namespace

const InnerLoops& inner_loops_avx2() {
  // What the CPU is does not change, so it is asked once.
  static const InnerLoops table = [] {
    InnerLoops out = loops::table<Avx2>();
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before & ~kSubnormalsAreZero);
    const bool is_fast = cycles_of_fma(0x00300000) < 4 * cycles_of_fma(0x00b00000);
    _mm_setcsr(before);
    if (is_fast)
      out.raised = {.tokens = kDotTokens, .raise = raise, .dots_e4m3 = raised_dots<Avx2>};
    return out;
  }();
  return table;
}

}  // namespace dsr::cpu
