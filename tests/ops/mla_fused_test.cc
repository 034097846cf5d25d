// Fused steps of MLA against the ops that they are made of, bit for bit; and decode rows of many
// splits against the formula.
#include <numeric>

#include "ops/formulas.h"
#include "ops/mla_fixture.h"

namespace dsr::test {
namespace {

constexpr DType kFp8 = DType::kF8E4M3, kBf16 = DType::kBF16;
constexpr CacheType kCacheTypes[] = {CacheType::kF32, CacheType::kBF16, CacheType::kFP8};

class MlaFusedTest : public MlaTest {
 protected:
  Weight kv_b(const Sizes& s, DType dtype, DType scales = DType::kF32) {
    return make.weight(dtype, {s.H * (s.nope + s.v)}, s.C, 1 / std::sqrt(static_cast<float>(s.C)),
                       {128, 128}, scales);
  }
  void expect_query_and_write_is_both(const Sizes& s, const Weight& w, CacheType cache, int64_t T) {
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
                  .kv_b_proj = w,
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
    const auto what = str("H=", s.H, " ", w.text(), " ", name(cache), " T=", T);
    EXPECT_TRUE(same_bits(fused.query.out, apart.query.out)) << what;
    EXPECT_TRUE(same_bits(fused.write.cache.pages, apart.write.cache.pages)) << what;
  }
};

TEST_P(MlaFusedTest, QueryAndWriteIsBoth) {
  const Sizes s = {.H = 3, .C = 512, .rope = 64, .nope = 128, .v = 128};
  const Weight fp8 = kv_b(s, kFp8), bf16 = kv_b(kReal, kBf16), ragged = kv_b(kRagged, kFp8);
  for (const CacheType cache : kCacheTypes)
    for (const int64_t T : {1, 3, 64})
      if (T < 64 || on_cuda()) expect_query_and_write_is_both(s, fp8, cache, T);
  for (const int64_t T : {1, 9, 120}) {
    if (on_cuda()) expect_query_and_write_is_both(kReal, bf16, CacheType::kBF16, T);
    expect_query_and_write_is_both(kRagged, ragged, CacheType::kFP8, T);
  }
}

TEST_P(MlaFusedTest, QueryAndWriteOfNoTokens) {
  expect_query_and_write_is_both(kRagged, kv_b(kRagged, kFp8), CacheType::kBF16, 0);
}

// --- mla_attention_and_value --------------------------------------------------------------------

// Sequences of a paged cache whose pages lie in a scattered order.
class MlaDecodeTest : public MlaFusedTest {
 protected:
  // lengths: tokens of each sequence; its last `queries` of them are the batch's.
  struct Batch {
    std::vector<int64_t> lengths, queries;
    MlaCacheView cache;
    Tensor positions, cu, table;
    int64_t T = 0;
  };

  // The last of each sequence, unless `queries` says how many.
  Batch batch(CacheType type, const Sizes& s, const std::vector<int64_t>& lengths,
              std::vector<int64_t> queries = {}) {
    Batch b;
    b.lengths = lengths;
    if (queries.empty()) queries.assign(lengths.size(), 1);
    b.queries = queries;
    int64_t n_blocks = 0, most = 0;
    for (const int64_t n : lengths) {
      n_blocks += ceil_div(n, kPageTokens);
      most = std::max(most, ceil_div(n, kPageTokens));
    }
    constexpr int64_t kStride = 101;  // from a block to the next one's place
    DSR_CHECK(n_blocks % kStride != 0, n_blocks);
    b.cache = empty_cache(type, s, n_blocks);
    std::vector<int32_t> table, cu = {0}, positions;
    std::vector<float> row(static_cast<size_t>(s.C + s.rope));
    TensorMaker values(11);
    int64_t used = 0;
    for (size_t q = 0; q < lengths.size(); ++q) {
      for (int64_t i = 0; i < most; ++i) {
        const bool has = i < ceil_div(lengths[q], kPageTokens);
        table.push_back(has ? static_cast<int32_t>((used++ * kStride + 3) % n_blocks) : -1);
      }
      for (int64_t p = 0; p < lengths[q]; ++p) {
        for (float& v : row) v = values.random().next_normal();
        const int64_t block = table[q * static_cast<size_t>(most) + static_cast<size_t>(p / 64)];
        b.cache.format.encode(row.data(), row.data() + s.C,
                              row_of(b.cache, block * kPageTokens + p % kPageTokens));
      }
      for (int64_t i = queries[q]; i > 0; --i)
        positions.push_back(static_cast<int32_t>(lengths[q] - i));
      cu.push_back(static_cast<int32_t>(positions.size()));
    }
    b.T = std::ssize(positions);
    b.positions = make.i32({b.T}, positions);
    b.cu = make.i32({std::ssize(cu)}, cu);
    b.table = make.i32({std::ssize(lengths), most}, table);
    return b;
  }
  MlaAttentionAndValueArgs args(const Batch& b, const Sizes& s, const Weight& w, const Tensor& q) {
    const Tensor latent = empty_activation({b.T, s.H, s.C});
    return {.attention = {.out = latent,
                          .q = q,
                          .cache = b.cache,
                          .positions = b.positions,
                          .cu_seqlens_q = b.cu,
                          .block_table = b.table,
                          .softmax_scale = 0.05f},
            .value = {.out = empty_activation({b.T, s.H, s.v}),
                      .latent = latent,
                      .kv_b_proj = w,
                      .qk_nope_head_dim = s.nope}};
  }
  void expect_fused_is_both(const Batch& b, const Sizes& s, const Weight& w) {
    const Tensor q = random_activation({b.T, s.H, s.C + s.rope});
    const MlaAttentionAndValueArgs fused = args(b, s, w, q), apart = args(b, s, w, q);
    ops::mla_attention_and_value(exec, fused);
    ops::mla_attention(exec, apart.attention);
    ops::mla_value(exec, apart.value);
    EXPECT_TRUE(same_bits(fused.value.out, apart.value.out))
        << name(b.cache.format.type) << " " << w.text() << " T=" << b.T;
  }
};

TEST_P(MlaDecodeTest, AttentionAndValueIsBoth) {
  const Weight fp8 = kv_b(kReal, kFp8), bf16 = kv_b(kReal, kBf16);
  const Weight ue8m0 = kv_b(kReal, kFp8, DType::kF8E8M0), ragged = kv_b(kRagged, kFp8);
  for (const CacheType cache : kCacheTypes) {
    // Rows of one split and of several, and a chunk of a prompt among them.
    const Batch mixed = batch(cache, kReal, {64, 130, 66}, {1, 1, 3});
    expect_fused_is_both(mixed, kReal, fp8);
    expect_fused_is_both(batch(cache, kRagged, {70, 131}), kRagged, ragged);
    if (!on_cuda()) continue;  // elsewhere it is the same code for all of these
    const Batch many = batch(cache, kReal, {1, 64, 65, 512, 513, 700});
    for (const Weight& w : {fp8, bf16, ue8m0})
      for (const Batch& b : {batch(cache, kReal, {600}), many, mixed})
        expect_fused_is_both(b, kReal, w);
  }
}

TEST_P(MlaDecodeTest, AttentionAndValueIsBothForManyHeadsAndLongRows) {
  if (!on_cuda()) GTEST_SKIP() << "long on the cpu, and the same code";
  for (const int64_t H : {8, 16, 20}) {
    const Sizes s = {.H = H, .C = 512, .rope = 64, .nope = 128, .v = 128};
    const Weight w = kv_b(s, kFp8);
    expect_fused_is_both(batch(CacheType::kBF16, s, {5000}), s, w);
    expect_fused_is_both(batch(CacheType::kBF16, s, {9000, 3, 1025}), s, w);
    expect_fused_is_both(batch(CacheType::kBF16, s, {40, 200, 600, 1030, 64, 65, 1, 513, 2, 3}), s,
                         w);
  }
}

TEST_P(MlaDecodeTest, RowsOfManyPartsMatchTheFormula) {
  std::vector<int64_t> lengths = {1, 63, 65, 513};
  if (on_cuda()) lengths.insert(lengths.end(), {128, 700, 1025, 8300});
  const Sizes& s = kReal;
  const Batch b = batch(CacheType::kBF16, s, lengths);
  const Tensor q = random_activation({b.T, s.H, s.C + s.rope});
  const MlaAttentionAndValueArgs a = args(b, s, kv_b(s, kFp8), q);
  ops::mla_attention(exec, a.attention);
  const Matrix x(q);
  Matrix want(b.T * s.H, s.C);
  for (size_t t = 0; t < lengths.size(); ++t) {
    std::vector<std::vector<double>> rows;
    for (int64_t i = 0; i < lengths[t]; ++i) {
      const int32_t block = b.table.ptr<int32_t>(static_cast<int64_t>(t))[i / kPageTokens];
      rows.push_back(decoded(b.cache, block * kPageTokens + i % kPageTokens));
    }
    for (int64_t h = 0; h < s.H; ++h) {
      const int64_t r = static_cast<int64_t>(t) * s.H + h;
      double sum = 0;
      for (const std::vector<double>& row : rows) {
        double score = 0;
        for (int64_t i = 0; i < x.columns; ++i) score += x(r, i) * row[static_cast<size_t>(i)];
        const double p = std::exp(score * static_cast<double>(a.attention.softmax_scale));
        sum += p;
        for (int64_t c = 0; c < s.C; ++c) want(r, c) += p * row[static_cast<size_t>(c)];
      }
      for (int64_t c = 0; c < s.C; ++c) want(r, c) /= sum;
    }
  }
  // As for MlaAttentionTest; a row of one token has p = 1, which bf16 holds.
  Tolerance tol = sum_of(s.C + s.rope, activation(), 16);
  if (on_cuda()) tol.abs += 0x1p-9;
  EXPECT_TRUE(close(a.attention.out, want.values, tol));
}

TEST_P(MlaDecodeTest, ARowInABatchIsTheRowAlone) {
  const Sizes& s = kReal;
  const Weight w = kv_b(s, kFp8);
  for (const CacheType cache : kCacheTypes) {
    if (!on_cuda() && cache != CacheType::kBF16) continue;  // which of them is a decoder's matter
    const Batch b = batch(cache, s, {700, 64, 1025, 3, 513, 512, 1, 65, 600, 130});
    const Tensor q = random_activation({b.T, s.H, s.C + s.rope});
    const MlaAttentionAndValueArgs all = args(b, s, w, q);
    ops::mla_attention_and_value(exec, all);
    for (const auto& [first, n] : {std::pair{0, 1}, {3, 1}, {2, 4}, {1, 8}}) {
      MlaAttentionAndValueArgs some = args(b, s, w, rows(q, first, n));
      some.attention.out = some.value.latent = empty_activation({n, s.H, s.C});
      some.value.out = empty_activation({n, s.H, s.v});
      some.attention.positions = rows(b.positions, first, n);
      std::vector<int32_t> cu(static_cast<size_t>(n) + 1);
      std::iota(cu.begin(), cu.end(), 0);
      some.attention.cu_seqlens_q = make.i32({n + 1}, cu);
      some.attention.block_table = rows(b.table, first, n);
      ops::mla_attention_and_value(exec, some);
      EXPECT_TRUE(same_bits(some.value.out, rows(all.value.out, first, n)))
          << name(cache) << " " << first << " " << n;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, MlaFusedTest, testing::ValuesIn(backends_under_test()),
                         backend_name);
INSTANTIATE_TEST_SUITE_P(Backends, MlaDecodeTest, testing::ValuesIn(backends_under_test()),
                         backend_name);

}  // namespace
}  // namespace dsr::test
