// mla_attention of decode rows, from one split to many: against the formula, and alone as in any
// batch.
#include <numeric>

#include "ops/formulas.h"
#include "ops/mla_fixture.h"

namespace dsr::test {
namespace {

// Sequences of a paged cache whose pages lie in a scattered order.
class MlaDecodeTest : public MlaTest {
 protected:
  struct Batch {
    MlaCacheView cache;
    Tensor positions, cu, table;
    int64_t T = 0;
  };

  // lengths: tokens of each sequence; its last one is the batch's.
  Batch batch(CacheType type, const Sizes& s, const std::vector<int64_t>& lengths) {
    Batch b;
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
      positions.push_back(static_cast<int32_t>(lengths[q] - 1));
      cu.push_back(static_cast<int32_t>(positions.size()));
    }
    b.T = std::ssize(positions);
    b.positions = make.i32({b.T}, positions);
    b.cu = make.i32({std::ssize(cu)}, cu);
    b.table = make.i32({std::ssize(lengths), most}, table);
    return b;
  }
  MlaAttentionArgs args(const Batch& b, const Tensor& out, const Tensor& q) {
    return {.out = out,
            .q = q,
            .cache = b.cache,
            .positions = b.positions,
            .cu_seqlens_q = b.cu,
            .block_table = b.table,
            .softmax_scale = 0.05f};
  }
};

TEST_P(MlaDecodeTest, RowsOfManyPartsMatchTheFormula) {
  std::vector<int64_t> lengths = {1, 63, 65, 513};
  if (on_cuda()) lengths.insert(lengths.end(), {128, 700, 1025, 8300, 9000});
  const Sizes& s = kReal;
  for (const CacheType cache : {CacheType::kBF16, CacheType::kFP8}) {
    const Batch b = batch(cache, s, lengths);
    const Tensor q = random_activation({b.T, s.H, s.C + s.rope});
    const Tensor out = empty_activation({b.T, s.H, s.C});
    const MlaAttentionArgs a = args(b, out, q);
    ops::mla_attention(exec, a);
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
          const double p = std::exp(score * static_cast<double>(a.softmax_scale));
          sum += p;
          for (int64_t c = 0; c < s.C; ++c) want(r, c) += p * row[static_cast<size_t>(c)];
        }
        for (int64_t c = 0; c < s.C; ++c) want(r, c) /= sum;
      }
    }
    // As for MlaAttentionTest; a row of one token has p = 1, which bf16 holds.
    Tolerance tol = sum_of(s.C + s.rope, activation(), 16);
    if (on_cuda()) tol.abs += kRoundedWeights;
    EXPECT_TRUE(close(out, want.values, tol)) << name(cache);
  }
}

TEST_P(MlaDecodeTest, ARowInABatchIsTheRowAlone) {
  const Sizes& s = kReal;
  for (const CacheType cache : {CacheType::kF32, CacheType::kBF16, CacheType::kFP8}) {
    if (!on_cuda() && cache != CacheType::kBF16) continue;  // which of them is a decoder's matter
    const Batch b = batch(cache, s, {700, 64, 1025, 3, 513, 512, 1, 65, 600, 130});
    const Tensor q = random_activation({b.T, s.H, s.C + s.rope});
    const Tensor all = empty_activation({b.T, s.H, s.C});
    ops::mla_attention(exec, args(b, all, q));
    for (const auto& [first, n] : {std::pair{0, 1}, {3, 1}, {2, 4}, {1, 8}}) {
      const Tensor out = empty_activation({n, s.H, s.C});
      MlaAttentionArgs some = args(b, out, rows(q, first, n));
      some.positions = rows(b.positions, first, n);
      std::vector<int32_t> cu(static_cast<size_t>(n) + 1);
      std::iota(cu.begin(), cu.end(), 0);
      some.cu_seqlens_q = make.i32({n + 1}, cu);
      some.block_table = rows(b.table, first, n);
      ops::mla_attention(exec, some);
      EXPECT_TRUE(same_bits(out, rows(all, first, n))) << name(cache) << " " << first << " " << n;
    }
  }
}

// Work for all SMs, so that blocks take whole groups of parts; alone a row is spread over them.
TEST_P(MlaDecodeTest, ARowAmongMuchWorkIsTheRowAlone) {
  if (!on_cuda()) GTEST_SKIP() << "no other backend splits rows";
  const Sizes s{.H = 128, .C = 512, .rope = 64, .nope = 128, .v = 128};
  for (const CacheType cache : {CacheType::kBF16, CacheType::kFP8}) {
    const Batch b = batch(cache, s, {1500, 700, 300, 2000, 64, 129, 2500});
    const Tensor q = random_activation({b.T, s.H, s.C + s.rope});
    const Tensor all = empty_activation({b.T, s.H, s.C});
    ops::mla_attention(exec, args(b, all, q));
    for (int64_t t = 0; t < b.T; ++t) {
      const Tensor out = empty_activation({1, s.H, s.C});
      MlaAttentionArgs one = args(b, out, rows(q, t, 1));
      one.positions = rows(b.positions, t, 1);
      one.cu_seqlens_q = make.i32({2}, {0, 1});
      one.block_table = rows(b.table, t, 1);
      ops::mla_attention(exec, one);
      EXPECT_TRUE(same_bits(out, rows(all, t, 1))) << name(cache) << " " << t;
      // The same latents for fewer heads, which more blocks share.
      const Tensor few = empty_activation({1, 16, s.C});
      one.out = few;
      one.q = reshape(columns(reshape(one.q, {1, s.H * (s.C + s.rope)}), 0, 16 * (s.C + s.rope)),
                      {1, 16, s.C + s.rope});
      ops::mla_attention(exec, one);
      EXPECT_TRUE(
          same_bits(few, reshape(columns(reshape(out, {1, s.H * s.C}), 0, 16 * s.C), {1, 16, s.C})))
          << t;
    }
  }
}

// A block table with room for more pages: another grid, and where all pages of the narrow one are
// a block's each (mla_page.cuh, as many as a GPU of 132 SMs takes), another kernel.
TEST_P(MlaDecodeTest, TheRoomForPagesChangesNoBit) {
  struct Case {
    Sizes s;
    std::vector<int64_t> lengths;
  };
  std::vector<Case> cases = {{kReal, {130, 1}}};
  if (on_cuda()) {
    const Sizes lite{.H = 16, .C = 512, .rope = 64, .nope = 128, .v = 128};
    const Sizes some_heads{.H = 10, .C = 512, .rope = 64, .nope = 128, .v = 128};
    const int64_t p = kPageTokens;
    cases = {{lite, {132 * p}},
             {lite, {132 * p - 63}},
             {lite, {131 * p}},
             {some_heads, {9 * p + 5}},
             {lite, {66 * p, 3}},
             {lite, {33 * p, 33 * p - 1, 9 * p}},
             {lite, {33 * p, 1, 20 * p + 7, 33 * p - 63}},
             {lite, {16 * p, 1, 2, p, p + 1, 15 * p, 15 * p + 1, 700}}};
  }
  for (const CacheType cache : {CacheType::kBF16, CacheType::kFP8}) {
    for (const Case& c : cases) {
      const Batch narrow = batch(cache, c.s, c.lengths);
      const int64_t S = std::ssize(c.lengths), pages = narrow.table.shape[1];
      const Tensor q = random_activation({narrow.T, c.s.H, c.s.C + c.s.rope});
      const Tensor want = empty_activation({narrow.T, c.s.H, c.s.C});
      ops::mla_attention(exec, args(narrow, want, q));
      for (const int64_t more : {1, 100}) {
        std::vector<int32_t> table(static_cast<size_t>(S * (pages + more)), -1);
        for (int64_t r = 0; r < S; ++r)
          std::copy_n(narrow.table.ptr<int32_t>(r), pages, table.begin() + r * (pages + more));
        Batch wide = narrow;
        wide.table = make.i32({S, pages + more}, table);
        const Tensor out = empty_activation({narrow.T, c.s.H, c.s.C});
        ops::mla_attention(exec, args(wide, out, q));
        EXPECT_TRUE(same_bits(out, want))
            << name(cache) << " H=" << c.s.H << " T=" << narrow.T << " " << c.lengths.front()
            << " tokens, " << pages << " pages and " << more;
      }
    }
  }
}

// Where the sum of the parts and W_UV are one kernel, which is where rows are few, and where not.
TEST_P(MlaDecodeTest, AttentionAndValueIsBoth) {
  struct Case {
    Sizes s;
    DType weights;
    CacheType cache;
    std::vector<int64_t> lengths;
  };
  constexpr DType kFp8 = DType::kF8E4M3, kBf16 = DType::kBF16;
  const Sizes narrow{.H = 3, .C = 512, .rope = 64, .nope = 128, .v = 64};
  std::vector<Case> cases = {{kReal, kFp8, CacheType::kBF16, {700}},
                             {kReal, kBf16, CacheType::kBF16, {1, 130}},
                             {narrow, kFp8, CacheType::kBF16, {200}},
                             {kReal, kFp8, CacheType::kFP8, {200}},
                             {kRagged, kFp8, CacheType::kBF16, {200, 3}}};
  if (on_cuda()) {
    const Sizes lite{.H = 16, .C = 512, .rope = 64, .nope = 128, .v = 128};
    const Sizes large{.H = 128, .C = 512, .rope = 64, .nope = 128, .v = 128};
    for (const DType weights : {kFp8, kBf16}) {
      cases.push_back({lite, weights, CacheType::kBF16, {1025}});
      cases.push_back({lite, weights, CacheType::kBF16, {8300}});
      cases.push_back({lite, weights, CacheType::kBF16, {40, 2049}});
      cases.push_back({lite, weights, CacheType::kBF16, {9000, 64, 700, 1, 65, 513, 128, 2049}});
      cases.push_back({large, weights, CacheType::kBF16, {1500, 700, 300, 2000, 64, 129, 2500}});
    }
    cases.push_back({lite, kFp8, CacheType::kBF16, std::vector<int64_t>(64, 300)});
    cases.push_back({lite, kFp8, CacheType::kFP8, {8300}});
    cases.push_back({lite, kFp8, CacheType::kFP8, {9000, 64, 700, 1, 65, 513, 128, 2049}});
  } else {
    const Sizes many{.H = 14, .C = 64, .rope = 8, .nope = 16, .v = 24};  // heads for all threads
    cases.push_back({many, kFp8, CacheType::kBF16, {130}});
    cases.push_back({many, kBf16, CacheType::kF32, {1}});
    cases.push_back({many, kFp8, CacheType::kBF16, {5, 70}});
  }
  for (const Case& c : cases) {
    const Batch b = batch(c.cache, c.s, c.lengths);
    const Tensor q = random_activation({b.T, c.s.H, c.s.C + c.s.rope});
    const Weight w = kv_b(c.s, c.weights);
    const auto value = [&](const Tensor& latent) {
      return MlaValueArgs{.out = empty_activation({b.T, c.s.H, c.s.v}),
                          .latent = latent,
                          .kv_b_proj = w,
                          .qk_nope_head_dim = c.s.nope};
    };
    const Tensor latent = empty_activation({b.T, c.s.H, c.s.C});
    const MlaAttentionAndValueArgs fused = {args(b, latent, q), value(latent)};
    ops::mla_attention_and_value(exec, fused);
    MlaAttentionAndValueArgs apart = {args(b, make.copy(latent), q), {}};
    apart.value = value(apart.attention.out);
    ops::mla_attention(exec, apart.attention);
    ops::mla_value(exec, apart.value);
    EXPECT_TRUE(same_bits(fused.value.out, apart.value.out))
        << "H=" << c.s.H << " " << name(c.weights) << " " << name(c.cache) << " T=" << b.T << " "
        << c.lengths.front();
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, MlaDecodeTest, testing::ValuesIn(backends_under_test()),
                         backend_name);

}  // namespace
}  // namespace dsr::test
