// How keys and values lie in the pages of an MHA or GQA cache (MLA rows: quant_test.cc,
// kv_test.cc).
#include "tensor/kv_format.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/rng.h"
#include "tensor/dtype.h"
#include "tensor/quant.h"

namespace dsr::test {
namespace {

constexpr int64_t kG = 3, kD = 10, kAt = 17;

struct Token {
  std::vector<float> k, v;
};

Token random_token(uint64_t seed) {
  PhiloxStream stream(seed, 0);
  Token t{std::vector<float>(kG * kD), std::vector<float>(kG * kD)};
  for (float& x : t.k) x = stream.next_normal();
  for (float& x : t.v) x = 100 * stream.next_normal();
  return t;
}

std::vector<std::byte> page_of(const GqaPageFormat& f) {
  return std::vector<std::byte>(static_cast<size_t>(f.page_bytes()), std::byte{0xee});
}

TEST(GqaPageFormatTest, PageBytes) {
  // R1-Distill-Llama: 8 KV heads of 128.
  EXPECT_EQ((GqaPageFormat{CacheType::kF32, 8, 128}).page_bytes(), 2 * 8 * 64 * 128 * 4);
  EXPECT_EQ((GqaPageFormat{CacheType::kBF16, 8, 128}).page_bytes(), 2 * 8 * 64 * 128 * 2);
  EXPECT_EQ((GqaPageFormat{CacheType::kFP8, 8, 128}).page_bytes(), 2 * 8 * 64 * (128 + 4));
}

// The layout that kernels read: keys [G][64][d], then values.
TEST(GqaPageFormatTest, Float32AndBf16LieHeadByHead) {
  const Token token = random_token(1);
  for (const DType t : {DType::kF32, DType::kBF16}) {
    const GqaPageFormat f{t == DType::kF32 ? CacheType::kF32 : CacheType::kBF16, kG, kD};
    std::vector<std::byte> got = page_of(f), want = got;
    f.encode(token.k.data(), token.v.data(), got.data(), kAt);
    for (int64_t g = 0; g < kG; ++g) {
      const int64_t row = (g * kPageTokens + kAt) * kD * size_bytes(t);
      from_f32(t, &token.k[static_cast<size_t>(g * kD)], &want[static_cast<size_t>(row)], kD);
      from_f32(t, &token.v[static_cast<size_t>(g * kD)],
               &want[static_cast<size_t>(row + f.page_bytes() / 2)], kD);
    }
    EXPECT_EQ(got, want) << name(t);
  }
}

// Codes [G][64][d], then a scale per head and token [G][64]; keys, then values.
TEST(GqaPageFormatTest, Fp8ScalesFollowTheCodes) {
  const Token token = random_token(2);
  const GqaPageFormat f{CacheType::kFP8, kG, kD};
  std::vector<std::byte> got = page_of(f), want = got;
  f.encode(token.k.data(), token.v.data(), got.data(), kAt);
  for (const bool values : {false, true}) {
    std::byte* half = want.data() + (values ? f.page_bytes() / 2 : 0);
    for (int64_t g = 0; g < kG; ++g) {
      const float* x = (values ? token.v : token.k).data() + g * kD;
      const float scale = e4m3_scale(x, kD);
      const int64_t row = g * kPageTokens + kAt;
      quantize_e4m3(x, kD, scale, reinterpret_cast<uint8_t*>(half + row * kD));
      std::memcpy(half + kG * kPageTokens * kD + row * 4, &scale, 4);
    }
  }
  EXPECT_EQ(got, want);
}

TEST(GqaPageFormatTest, DecodesWhatWasEncodedAtEveryOffset) {
  for (const CacheType type : {CacheType::kF32, CacheType::kBF16, CacheType::kFP8}) {
    const GqaPageFormat f{type, kG, kD};
    std::vector<std::byte> page = page_of(f);
    for (int64_t at = 0; at < kPageTokens; ++at) {
      const Token t = random_token(static_cast<uint64_t>(at));
      f.encode(t.k.data(), t.v.data(), page.data(), at);
    }
    const float rel = type == CacheType::kF32 ? 0 : type == CacheType::kBF16 ? 0x1p-8f : 0x1p-4f;
    for (int64_t at = 0; at < kPageTokens; ++at) {
      const Token t = random_token(static_cast<uint64_t>(at));
      for (int64_t g = 0; g < kG; ++g) {
        float k[kD], v[kD];
        f.decode_key(page.data(), g, at, k);
        f.decode_value(page.data(), g, at, v);
        const float* want_k = &t.k[static_cast<size_t>(g * kD)];
        const float* want_v = &t.v[static_cast<size_t>(g * kD)];
        for (int64_t i = 0; i < kD; ++i) {
          // Half a step of a normal code; of a subnormal one, 2^-10 of the scale.
          const float ks = type == CacheType::kFP8 ? 0x1p-10f * e4m3_scale(want_k, kD) : 0;
          const float vs = type == CacheType::kFP8 ? 0x1p-10f * e4m3_scale(want_v, kD) : 0;
          EXPECT_NEAR(k[i], want_k[i], 1.001f * std::max(rel * std::abs(want_k[i]), ks)) << at;
          EXPECT_NEAR(v[i], want_v[i], 1.001f * std::max(rel * std::abs(want_v[i]), vs)) << at;
        }
      }
    }
  }
}

TEST(GqaPageFormatTest, AHeadOfZerosIsZero) {
  const GqaPageFormat f{CacheType::kFP8, 1, 4};
  std::vector<std::byte> page = page_of(f);
  const float zero[4] = {};
  f.encode(zero, zero, page.data(), 0);
  float out[4] = {1, 1, 1, 1};
  f.decode_key(page.data(), 0, 0, out);
  for (const float x : out) EXPECT_EQ(x, 0);
}

}  // namespace
}  // namespace dsr::test
