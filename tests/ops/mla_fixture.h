// What the tests of MLA share.
#pragma once

#include <cmath>
#include <vector>

#include "ops/mla.h"
#include "support/backends_under_test.h"

namespace dsr::test {

// Head sizes of V2 and V3 with few heads; and a ragged one.
struct Sizes {
  int64_t H, C, rope, nope, v;  // C: kv_lora_rank
};
constexpr Sizes kReal{2, 512, 64, 128, 128};
constexpr Sizes kRagged{3, 130, 6, 10, 7};

// The rotated pairs (2i, 2i + 1) of x[0, width) at a position.
inline void rotate(double* x, const RopeTable& rope, int64_t position, int64_t width) {
  for (int64_t i = 0; i < width / 2; ++i) {
    const double cos = static_cast<double>(rope.cos.ptr<float>(position)[i]);
    const double sin = static_cast<double>(rope.sin.ptr<float>(position)[i]);
    const double a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = a * cos - b * sin;
    x[2 * i + 1] = a * sin + b * cos;
  }
}

class MlaTest : public OpTest {
 protected:
  RopeTable rope_table(int64_t positions, int64_t width) {
    const RopeTable out{make.empty(DType::kF32, {positions, width / 2}),
                        make.empty(DType::kF32, {positions, width / 2})};
    for (int64_t p = 0; p < positions; ++p) {
      for (int64_t i = 0; i < width / 2; ++i) {
        const double angle =
            static_cast<double>(p) *
            std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(width));
        out.cos.ptr<float>(p)[i] = static_cast<float>(std::cos(angle));
        out.sin.ptr<float>(p)[i] = static_cast<float>(std::sin(angle));
      }
    }
    return out;
  }

  MlaCacheView empty_cache(CacheType type, const Sizes& s, int64_t n_blocks) {
    const MlaRowFormat format{type, s.C, s.rope};
    return {format, make.empty(DType::kU8, {n_blocks, format.page_bytes()})};
  }

  static std::byte* row_of(const MlaCacheView& cache, int64_t slot) {
    return cache.pages.ptr<std::byte>(slot / kPageTokens) +
           (slot % kPageTokens) * cache.format.row_bytes();
  }
  // A row as this backend takes it: those of released models, which tensor cores multiply, as bf16.
  std::vector<double> decoded(const MlaCacheView& cache, int64_t slot) const {
    const MlaRowFormat& f = cache.format;
    std::vector<float> row(static_cast<size_t>(f.kv_lora_rank + f.qk_rope_head_dim));
    f.decode(row_of(cache, slot), row.data(), row.data() + f.kv_lora_rank);
    if (on_cuda() && f.type == CacheType::kFP8 && f.kv_lora_rank == kReal.C)
      for (float& v : row) v = bf16_to_f32(f32_to_bf16(v));
    return {row.begin(), row.end()};
  }

  // What tensor cores add to an attention's error, of scores of about 1.2 times a normal number and
  // values of about 1. They take p as bf16: each errs by 2^-9 / sqrt(3) of itself, and the sum of
  // p v with sqrt(sum p^2) = 0.25 (67 tokens or more) by a quarter of that; six standard deviations
  // are below 2^-9.
  static constexpr double kRoundedWeights = 0x1p-9;

  Weight kv_b(const Sizes& s, DType dtype = DType::kF8E4M3) {
    return make.weight(dtype, {s.H * (s.nope + s.v)}, s.C, 1 / std::sqrt(static_cast<float>(s.C)));
  }
};

}  // namespace dsr::test
