// Every code of every format is decoded against its formula in double, and every rounding decision
// is checked at the midpoints of neighbouring codes and beside them.
#include "tensor/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "support/expect_error.h"

namespace dsr {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// A binary format: sign, exponent, mantissa.
struct Format {
  const char* name;
  int exponent_bits, mantissa_bits, bias;
  bool has_infinity;  // the last exponent is infinity and NaN; without it, only all ones is NaN
};
constexpr Format kBF16{"bf16", 8, 7, 127, true};
constexpr Format kF16{"f16", 5, 10, 15, true};
constexpr Format kE4M3{"e4m3", 4, 3, 7, false};

// (-1)^s * 2^(e - bias) * (1 + m / 2^M), or 2^(1 - bias) * m / 2^M for e = 0.
double decode(const Format& f, uint32_t code) {
  const uint32_t m = code & ((1u << f.mantissa_bits) - 1);
  const uint32_t e = (code >> f.mantissa_bits) & ((1u << f.exponent_bits) - 1);
  const double sign = (code >> (f.mantissa_bits + f.exponent_bits)) != 0 ? -1 : 1;
  const double fraction = std::ldexp(m, -f.mantissa_bits);
  const bool last = e == (1u << f.exponent_bits) - 1;
  if (f.has_infinity && last)
    return m == 0 ? sign * std::numeric_limits<double>::infinity() : std::nan("");
  if (!f.has_infinity && last && m == (1u << f.mantissa_bits) - 1) return std::nan("");
  if (e == 0) return sign * std::ldexp(fraction, 1 - f.bias);
  return sign * std::ldexp(1 + fraction, static_cast<int>(e) - f.bias);
}

uint32_t n_codes(const Format& f) { return 2u << (f.exponent_bits + f.mantissa_bits); }

void check_decoding(const Format& f, const std::function<float(uint32_t)>& to_float) {
  for (uint32_t code = 0; code < n_codes(f); ++code) {
    const double want = decode(f, code);
    const float found = to_float(code);
    if (std::isnan(want)) {
      ASSERT_TRUE(std::isnan(found)) << f.name << " " << code;
    } else {
      ASSERT_EQ(found, want) << f.name << " " << code;
      ASSERT_EQ(std::signbit(found), std::signbit(want)) << f.name << " " << code;
    }
  }
}

// For neighbouring finite codes c and c + 1 of magnitude a < b: everything below the middle goes to
// a, everything above to b, the middle to the even one of them. Both signs.
void check_rounding(const Format& f, const std::function<uint32_t(float)>& to_code) {
  const uint32_t half = n_codes(f) / 2;
  for (uint32_t c = 0; c + 1 < half; ++c) {
    const double a = decode(f, c), b = decode(f, c + 1);
    if (std::isnan(a) || !std::isfinite(b)) break;
    const auto middle = static_cast<float>((a + b) / 2);
    for (const bool negative : {false, true}) {
      const uint32_t sign = negative ? half : 0;
      const auto code_of = [&](float x) { return to_code(negative ? -x : x); };
      ASSERT_EQ(code_of(static_cast<float>(a)), sign + c) << f.name;
      ASSERT_EQ(code_of(std::nextafter(static_cast<float>(a), kInf)), sign + c) << f.name << a;
      ASSERT_EQ(code_of(std::nextafter(static_cast<float>(b), 0.0f)), sign + c + 1) << f.name << b;
      if (middle != (a + b) / 2) continue;  // float cannot hold it (bf16 subnormals below)
      ASSERT_EQ(code_of(middle), sign + c + (c & 1)) << f.name << " middle of " << c;
      ASSERT_EQ(code_of(std::nextafter(middle, 0.0f)), sign + c) << f.name << " below " << c;
      ASSERT_EQ(code_of(std::nextafter(middle, kInf)), sign + c + 1) << f.name << " above " << c;
    }
  }
}

TEST(DTypeTest, Bf16) {
  check_decoding(kBF16, [](uint32_t c) { return bf16_to_f32(static_cast<uint16_t>(c)); });
  check_rounding(kBF16, [](float x) -> uint32_t { return f32_to_bf16(x); });
  const float largest = bf16_to_f32(0x7f7f), step = 0x1p120f;
  EXPECT_EQ(f32_to_bf16(kInf), 0x7f80);
  EXPECT_EQ(f32_to_bf16(-kInf), 0xff80);
  EXPECT_EQ(f32_to_bf16(largest + step / 2), 0x7f80);  // the middle; infinity is even
  EXPECT_EQ(f32_to_bf16(std::nextafter(largest + step / 2, 0.0f)), 0x7f7f);
  EXPECT_EQ(f32_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
  for (const uint32_t nan : {0x7fc00000u, 0x7f800001u, 0xffc00000u, 0xff800001u, 0x7fffffffu})
    EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(std::bit_cast<float>(nan))))) << nan;
}

TEST(DTypeTest, F16) {
  check_decoding(kF16, [](uint32_t c) { return f16_to_f32(static_cast<uint16_t>(c)); });
  check_rounding(kF16, [](float x) -> uint32_t { return f32_to_f16(x); });
  EXPECT_EQ(f32_to_f16(65504.0f), 0x7bff);
  EXPECT_EQ(f32_to_f16(std::nextafter(65520.0f, 0.0f)), 0x7bff);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(f32_to_f16(-65520.0f), 0xfc00);
  EXPECT_EQ(f32_to_f16(kInf), 0x7c00);
  EXPECT_EQ(f32_to_f16(0x1p-25f), 0);  // half the smallest: to even
  EXPECT_EQ(f32_to_f16(std::nextafter(0x1p-25f, 1.0f)), 1);
  EXPECT_EQ(f32_to_f16(-0.0f), 0x8000);
  EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(std::nanf("")))));
}

TEST(DTypeTest, E4m3) {
  check_decoding(kE4M3, [](uint32_t c) { return e4m3_to_f32(static_cast<uint8_t>(c)); });
  check_rounding(kE4M3, [](float x) -> uint32_t { return f32_to_e4m3(x); });
  EXPECT_EQ(e4m3_to_f32(0x7e), 448.0f);
  EXPECT_TRUE(std::isnan(e4m3_to_f32(0x7f)));
  EXPECT_TRUE(std::isnan(e4m3_to_f32(0xff)));
  for (const float big : {448.0f, 449.0f, 464.0f, 465.0f, 480.0f, 1e30f, kInf}) {
    EXPECT_EQ(f32_to_e4m3(big), 0x7e) << big;
    EXPECT_EQ(f32_to_e4m3(-big), 0xfe) << big;
  }
  EXPECT_EQ(f32_to_e4m3(std::nanf("")), 0x7f);
  EXPECT_EQ(f32_to_e4m3(0x1p-10f), 0);  // half the smallest: to even
  EXPECT_EQ(f32_to_e4m3(std::nextafter(0x1p-10f, 1.0f)), 1);
  EXPECT_EQ(f32_to_e4m3(-0.0f), 0x80);
  EXPECT_EQ(f32_to_e4m3(std::numeric_limits<float>::denorm_min()), 0);
}

TEST(DTypeTest, E8m0) {
  for (int code = 0; code < 255; ++code)
    EXPECT_EQ(e8m0_to_f32(static_cast<uint8_t>(code)), std::ldexp(1.0, code - 127)) << code;
  EXPECT_TRUE(std::isnan(e8m0_to_f32(255)));
}

TEST(DTypeTest, RowsConvertAtAnyAlignment) {
  const std::vector<float> values = {0.0f, -1.5f, 3.0f, 448.0f, 0x1p-9f};
  const auto n = static_cast<int64_t>(values.size());
  for (const DType t : {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3}) {
    for (size_t shift = 0; shift < 4; ++shift) {
      std::vector<unsigned char> bytes(64, 0xee);
      from_f32(t, values.data(), bytes.data() + shift, n);
      std::vector<float> back(values.size(), -1);
      to_f32(t, bytes.data() + shift, back.data(), n);
      EXPECT_EQ(back, values) << name(t);
      EXPECT_EQ(bytes[shift + static_cast<size_t>(n * size_bytes(t))], 0xee) << name(t);
    }
  }
  const unsigned char scales[] = {126, 127, 130};
  float out[3] = {};
  to_f32(DType::kF8E8M0, scales, out, 3);
  EXPECT_EQ(out[0], 0.5f);
  EXPECT_EQ(out[2], 8.0f);
}

TEST(DTypeTest, OtherTypesAreNoNumbersToComputeWith) {
  float x = 0;
  for (const DType t : {DType::kI32, DType::kI64, DType::kU8})
    EXPECT_EQ(test::error_of([&] { to_f32(t, &x, &x, 1); }, ErrorKind::kInternal),
              std::string("to_f32: ") + name(t) + " is not a floating-point type");
  EXPECT_EQ(test::error_of([&] { from_f32(DType::kF8E8M0, &x, &x, 1); }, ErrorKind::kInternal),
            "from_f32: f8_e8m0 is not a type that values are stored in");
}

TEST(DTypeTest, NamesAndSizes) {
  EXPECT_STREQ(name(DType::kF32), "f32");
  EXPECT_STREQ(name(DType::kF8E4M3), "f8_e4m3");
  EXPECT_EQ(size_bytes(DType::kF32) + size_bytes(DType::kBF16) + size_bytes(DType::kI64), 14);
  EXPECT_EQ(size_bytes(DType::kF8E4M3) + size_bytes(DType::kF8E8M0) + size_bytes(DType::kU8), 3);
  EXPECT_TRUE(is_float(DType::kF16));
  EXPECT_FALSE(is_float(DType::kF8E4M3));
}

TEST(DTypeTest, CountsNanCodes) {
  std::vector<std::byte> all(256);
  for (size_t c = 0; c < 256; ++c) all[c] = static_cast<std::byte>(c);
  int64_t nan = 0;
  for (int c = 0; c < 256; ++c) nan += std::isnan(e4m3_to_f32(static_cast<uint8_t>(c))) ? 1 : 0;
  EXPECT_EQ(count_e4m3_nan(all.data(), 256), nan);
  EXPECT_EQ(count_e4m3_nan(all.data(), 0), 0);
  for (const int64_t n : {1, 254, 255, 256, 510, 511, 1000}) {
    std::vector<std::byte> codes(static_cast<size_t>(n), std::byte{0xff});
    EXPECT_EQ(count_e4m3_nan(codes.data(), n), n);
    codes.back() = std::byte{0x7e};
    EXPECT_EQ(count_e4m3_nan(codes.data(), n), n - 1);
  }
}

}  // namespace
}  // namespace dsr
