// Element types and their exact conversions.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace dsr {

enum class DType : uint8_t {
  kF32,
  kBF16,
  kF16,
  kF8E4M3,  // E4M3FN: bias 7, no infinities, NaN 0x7f and 0xff, largest 448
  kF8E8M0,  // 2^(byte - 127), NaN 0xff; a scale format ("ue8m0")
  kI32,
  kI64,
  kU8,
};

constexpr int64_t size_bytes(DType t) {
  switch (t) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBF16:
    case DType::kF16:
      return 2;
    case DType::kI64:
      return 8;
    case DType::kF8E4M3:
    case DType::kF8E8M0:
    case DType::kU8:
      return 1;
  }
  return 0;
}

// "f32", "bf16", "f8_e4m3", ...
const char* name(DType t);

// The formats that weights and activations are stored in.
constexpr bool is_float(DType t) {
  return t == DType::kF32 || t == DType::kBF16 || t == DType::kF16;
}

// --- one value at a time ------------------------------------------------------------------------

inline float bf16_to_f32(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

// Round to nearest, ties to even; NaN stays NaN.
inline uint16_t f32_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float f16_to_f32(uint16_t bits);
uint16_t f32_to_f16(float value);  // nearest even; overflow to infinity

float e4m3_to_f32(uint8_t bits);
// Nearest even, saturating at +-448 (the quantiser clamps before it rounds); NaN gives 0x7f.
uint8_t f32_to_e4m3(float value);
// How many of `n` e4m3 codes are NaN: 0x7f and 0xff.
int64_t count_e4m3_nan(const std::byte* codes, int64_t n);

inline float e8m0_to_f32(uint8_t bits) {
  if (bits == 0xff) return std::bit_cast<float>(0x7fc00000u);
  if (bits == 0) return 0x1p-127f;  // a subnormal of float32
  return std::bit_cast<float>(uint32_t{bits} << 23);
}

// n values of type `t` at `src` (any alignment) as float32, and back with one rounding.
void to_f32(DType t, const void* src, float* dst, int64_t n);
void from_f32(DType t, const float* src, void* dst, int64_t n);

}  // namespace dsr
