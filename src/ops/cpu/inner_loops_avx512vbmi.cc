// The inner loops with AVX-512 and its instructions for single bytes (VBMI, GFNI): e4m3 codes
// become float32 in 10 instructions for 64 of them, where AVX-512 alone takes 16.
#include "ops/cpu/avx512.h"
#include "ops/cpu/loops.h"

namespace dsr::cpu {
namespace {

// A bit matrix of vgf2p8affineqb: which bit of a byte each bit of the result is, the highest first;
// -1: none.
constexpr long long bit_matrix(const int (&from)[8]) {
  unsigned long long out = 0;
  for (int i = 0; i < 8; ++i)
    if (from[i] >= 0) out |= 1ull << (8 * i + from[i]);
  return static_cast<long long>(out);
}

struct Bytes {
  alignas(64) uint8_t at[64];
};

// Where byte i of 64 comes from so that, after each half of the four parts was interleaved with
// something, a pair of 32 bits holds codes j and j + 16 of the first or of the second 32.
constexpr Bytes interleaved() {
  Bytes out{};
  for (int i = 0; i < 64; ++i) {
    const int part = i / 16, pair = i % 8 / 2, odd = i % 2, second = i % 16 / 8;
    out.at[i] = static_cast<uint8_t>(32 * second + 16 * odd + 4 * part + pair);
  }
  return out;
}

// The bf16 of 2^-8 times e4m3 code 0 to 7, the subnormal ones: their upper and lower bytes.
constexpr Bytes kSubnormalHigh = {{0x00, 0x37, 0x37, 0x37, 0x38, 0x38, 0x38, 0x38}};
constexpr Bytes kSubnormalLow = {{0x00, 0x00, 0x80, 0xc0, 0x00, 0x20, 0x40, 0x60}};
constexpr Bytes kInterleaved = interleaved();

// The same so that what was interleaved holds codes in their order.
constexpr Bytes in_order() {
  Bytes out{};
  for (int i = 0; i < 64; ++i) {
    const int part = i / 16, half = i % 16 / 8;
    out.at[i] = static_cast<uint8_t>(32 * half + 8 * part + i % 8);
  }
  return out;
}
constexpr Bytes kInOrder = in_order();

struct Avx512Vbmi : Avx512 {
  static constexpr int kE4M3Run = 4;

  static __m512i load_bytes(const Bytes& b) { return _mm512_load_si512(b.at); }

  static void e4m3_run(const uint8_t* p, Reg (&out)[kE4M3Run]) {
    __m512i low, high;
    as_bytes_of_bf16(_mm512_permutexvar_epi8(load_bytes(kInterleaved), _mm512_loadu_si512(p)), low,
                     high);
    split(_mm512_unpacklo_epi8(low, high), out[0], out[1]);
    split(_mm512_unpackhi_epi8(low, high), out[2], out[3]);
  }
  static constexpr int64_t kBf16Run = 64;
  static void e4m3_as_bf16(const uint8_t* p, void* first, void* second) {
    __m512i low, high;
    as_bytes_of_bf16(_mm512_permutexvar_epi8(load_bytes(kInOrder), _mm512_loadu_si512(p)), low,
                     high);
    _mm512_storeu_si512(first, _mm512_unpacklo_epi8(low, high));
    _mm512_storeu_si512(second, _mm512_unpackhi_epi8(low, high));
  }

 private:
  // The bf16 of 2^-8 the value of a normal code s eeee mmm has the upper byte s0111eee and the
  // lower one emmm0000. Subnormal codes are rare: weights of a normal distribution have one in
  // some ten thousand.
  static void as_bytes_of_bf16(__m512i codes, __m512i& low, __m512i& high) {
    constexpr long long kHigh = bit_matrix({7, -1, -1, -1, -1, 6, 5, 4});
    constexpr long long kLow = bit_matrix({3, 2, 1, 0, -1, -1, -1, -1});
    high = _mm512_gf2p8affine_epi64_epi8(codes, _mm512_set1_epi64(kHigh), 0x38);
    low = _mm512_gf2p8affine_epi64_epi8(codes, _mm512_set1_epi64(kLow), 0);
    const __mmask64 subnormal = _mm512_testn_epi8_mask(codes, _mm512_set1_epi8(0x78));
    if (__builtin_expect(subnormal != 0, 0)) {
      const __m512i sign = _mm512_and_si512(codes, _mm512_set1_epi8(static_cast<char>(0x80)));
      const __m512i value = _mm512_permutexvar_epi8(codes, load_bytes(kSubnormalHigh));
      high = _mm512_mask_mov_epi8(high, subnormal, _mm512_or_si512(value, sign));
      low = _mm512_mask_permutexvar_epi8(low, subnormal, codes, load_bytes(kSubnormalLow));
    }
  }
  // Two bf16 in 32 bits each, as float32.
  static void split(__m512i pairs, Reg& even, Reg& odd) {
    const __m512i mask = _mm512_set1_epi32(static_cast<int>(0xffff0000));
    even = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    odd = _mm512_castsi512_ps(_mm512_and_si512(pairs, mask));
  }
};

}  // namespace

const InnerLoops& inner_loops_avx512vbmi() {
  static constexpr InnerLoops kTable = loops::table<Avx512Vbmi>();
  return kTable;
}

}  // namespace dsr::cpu
