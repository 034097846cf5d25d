// Fused steps of MLA against the ops that they are made of, bit for bit.
#include "ops/mla_fixture.h"

namespace dsr::test {
namespace {

constexpr DType kFp8 = DType::kF8E4M3, kBf16 = DType::kBF16;
constexpr CacheType kCacheTypes[] = {CacheType::kF32, CacheType::kBF16, CacheType::kFP8};

class MlaFusedTest : public MlaTest {
 protected:
  void expect_query_and_write_is_both(const Sizes& s, DType weights, CacheType cache, int64_t T) {
    const RopeTable rope = rope_table(200, s.rope);
    std::vector<int32_t> at;
    std::vector<int64_t> slots;
    for (int64_t t = 0; t < T; ++t) {
      at.push_back(static_cast<int32_t>((t * 31 + 7) % 200));
      slots.push_back((t * 37 + 5) % (2 * kPageTokens));
    }
    const Tensor positions = make.i32({T}, at);
    // Both read parts of the rows of one projection.
    const int64_t q_width = s.H * (s.nope + s.rope), kv_width = s.C + s.rope;
    const Tensor qkv = random_activation({T, q_width + kv_width});
    const MlaQueryAndWriteArgs fused = {
        .query = {.out = empty_activation({T, s.H, kv_width}),
                  .q = reshape(columns(qkv, 0, q_width), {T, s.H, s.nope + s.rope}),
                  .kv_b_proj = kv_b(s, weights),
                  .v_head_dim = s.v,
                  .rope = rope,
                  .positions = positions},
        .write = {.kv_a = columns(qkv, q_width, kv_width),
                  .weight = make.normal(DType::kF32, {s.C}, 0.2f, 1),
                  .eps = 1e-6f,
                  .rope = rope,
                  .positions = positions,
                  .slots = make.i64({T}, slots),
                  .cache = empty_cache(cache, s, 2)}};
    MlaQueryAndWriteArgs apart = fused;
    apart.query.out = make.copy(fused.query.out);
    apart.write.cache.pages = make.copy(fused.write.cache.pages);
    ops::mla_query_and_write(exec, fused);
    ops::mla_query(exec, apart.query);
    ops::mla_write_kv(exec, apart.write);
    const auto what = str("H=", s.H, " ", name(weights), " ", name(cache), " T=", T);
    EXPECT_TRUE(same_bits(fused.query.out, apart.query.out)) << what;
    EXPECT_TRUE(same_bits(fused.write.cache.pages, apart.write.cache.pages)) << what;
  }
};

TEST_P(MlaFusedTest, QueryAndWriteIsBoth) {
  for (const CacheType cache : kCacheTypes)
    for (const int64_t T : {1, 3, 64})
      expect_query_and_write_is_both({.H = 5, .C = 512, .rope = 64, .nope = 128, .v = 128}, kFp8,
                                     cache, T);
  for (const int64_t T : {1, 9, 120}) {
    expect_query_and_write_is_both(kReal, kBf16, CacheType::kBF16, T);
    expect_query_and_write_is_both(kRagged, kFp8, CacheType::kFP8, T);
  }
}

TEST_P(MlaFusedTest, QueryAndWriteOfNoTokens) {
  expect_query_and_write_is_both(kReal, kFp8, CacheType::kBF16, 0);
}

INSTANTIATE_TEST_SUITE_P(Backends, MlaFusedTest, testing::ValuesIn(backends_under_test()),
                         backend_name);

}  // namespace
}  // namespace dsr::test
