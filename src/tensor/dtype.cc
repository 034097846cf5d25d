#include "tensor/dtype.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/error.h"

namespace dsr {
namespace {

constexpr float decode_e4m3(uint8_t bits) {
  const int exponent = (bits >> 3) & 15;
  const int mantissa = bits & 7;
  if (exponent == 15 && mantissa == 7) return std::bit_cast<float>(0x7fc00000u);
  // Subnormals step by 2^-9; a normal number is (8 + mantissa) * 2^(exponent - 10).
  float magnitude = static_cast<float>(exponent == 0 ? mantissa : 8 + mantissa) * 0x1p-9f;
  for (int i = 1; i < exponent; ++i) magnitude *= 2;
  return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

constexpr std::array<float, 256> make_e4m3_table() {
  std::array<float, 256> table{};
  for (size_t i = 0; i < table.size(); ++i) table[i] = decode_e4m3(static_cast<uint8_t>(i));
  return table;
}
constexpr std::array<float, 256> kE4M3 = make_e4m3_table();

// Rounds to the nearest integer, ties to even, whatever the rounding mode of the process.
float round_even(float x) {
  const float down = std::floor(x);
  const float rest = x - down;
  if (rest < 0.5f) return down;
  if (rest > 0.5f) return down + 1;
  return std::fmod(down, 2.0f) == 0 ? down : down + 1;
}

template <typename T>
T load(const void* src, int64_t i) {
  T v;
  std::memcpy(&v, static_cast<const char*>(src) + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return v;
}
template <typename T>
void store(void* dst, int64_t i, T v) {
  std::memcpy(static_cast<char*>(dst) + i * static_cast<int64_t>(sizeof(T)), &v, sizeof(T));
}

}  // namespace

const char* name(DType t) {
  switch (t) {
    case DType::kF32:
      return "f32";
    case DType::kBF16:
      return "bf16";
    case DType::kF16:
      return "f16";
    case DType::kF8E4M3:
      return "f8_e4m3";
    case DType::kF8E8M0:
      return "f8_e8m0";
    case DType::kI32:
      return "i32";
    case DType::kI64:
      return "i64";
    case DType::kU8:
      return "u8";
  }
  return "?";
}

float f16_to_f32(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t exponent = (bits >> 10) & 31u;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

uint16_t f32_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return sign | 0x7e00u;
  if (magnitude >= 65520.0f) return sign | 0x7c00u;  // rounds to 65536 or beyond
  if (magnitude < 0x1p-14f)                          // subnormal: multiples of 2^-24
    return static_cast<uint16_t>(sign | static_cast<uint16_t>(round_even(magnitude * 0x1p24f)));
  uint32_t m = bits & 0x7fffffffu;
  m += 0xfffu + ((m >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((m - (112u << 23)) >> 13));
}

float e4m3_to_f32(uint8_t bits) { return kE4M3[bits]; }

int64_t count_e4m3_nan(const std::byte* codes, int64_t n) {
  constexpr int64_t kPart = 255;  // what a byte can count: compilers make vectors of that
  int64_t count = 0;
  for (int64_t first = 0; first < n; first += kPart) {
    uint8_t part = 0;
    const int64_t end = std::min(first + kPart, n);
    for (int64_t i = first; i < end; ++i)
      part = static_cast<uint8_t>(part + ((codes[i] & std::byte{0x7f}) == std::byte{0x7f} ? 1 : 0));
    count += part;
  }
  return count;
}

uint8_t f32_to_e4m3(float value) {
  if (std::isnan(value)) return 0x7f;
  const uint8_t sign = std::signbit(value) ? 0x80 : 0;
  const float magnitude = std::fmin(std::fabs(value), 448.0f);
  int exponent = 0;
  std::frexp(magnitude, &exponent);  // magnitude = f * 2^exponent, f in [0.5, 1)
  // Normal numbers have 4 significant bits; below 2^-6 the step stays 2^-9.
  const int step = magnitude < 0x1p-6f ? -9 : exponent - 4;
  const auto units = static_cast<int>(round_even(std::ldexp(magnitude, -step)));
  if (step == -9) return sign | static_cast<uint8_t>(units);  // 8 units are the first normal
  // units is 8..16; 16 carries into the exponent by itself.
  const int code = ((step + 9 + 1) << 3) + (units - 8);
  return sign | static_cast<uint8_t>(code);
}

void to_f32(DType t, const void* src, float* dst, int64_t n) {
  switch (t) {
    case DType::kF32:
      std::memcpy(dst, src, static_cast<size_t>(n) * sizeof(float));
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < n; ++i) dst[i] = bf16_to_f32(load<uint16_t>(src, i));
      return;
    case DType::kF16:
      for (int64_t i = 0; i < n; ++i) dst[i] = f16_to_f32(load<uint16_t>(src, i));
      return;
    case DType::kF8E4M3:
      for (int64_t i = 0; i < n; ++i) dst[i] = e4m3_to_f32(load<uint8_t>(src, i));
      return;
    case DType::kF8E8M0:
      for (int64_t i = 0; i < n; ++i) dst[i] = e8m0_to_f32(load<uint8_t>(src, i));
      return;
    case DType::kI32:
    case DType::kI64:
    case DType::kU8:
      break;
  }
  fail_internal("to_f32: ", name(t), " is not a floating-point type");
}

void from_f32(DType t, const float* src, void* dst, int64_t n) {
  switch (t) {
    case DType::kF32:
      std::memcpy(dst, src, static_cast<size_t>(n) * sizeof(float));
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < n; ++i) store(dst, i, f32_to_bf16(src[i]));
      return;
    case DType::kF16:
      for (int64_t i = 0; i < n; ++i) store(dst, i, f32_to_f16(src[i]));
      return;
    case DType::kF8E4M3:
      for (int64_t i = 0; i < n; ++i) store(dst, i, f32_to_e4m3(src[i]));
      return;
    default:
      fail_internal("from_f32: ", name(t), " is not a type that values are stored in");
  }
}

}  // namespace dsr
