#include <algorithm>

#include "device/finite_check.h"
#include "ops/formulas.h"
#include "ops/mla_fixture.h"
#include "support/expect_error.h"

namespace dsr::test {
namespace {

// --- mla_write_kv -------------------------------------------------------------------------------

struct Written {
  MlaCacheView cache;
  Tensor kv_a, weight, positions;
  std::vector<int64_t> slots;
  RopeTable rope;
};

class MlaWriteKvTest : public MlaTest {
 protected:
  // Rows for T tokens at positions 60, 61, ... in slots scattered over two pages; `aligned`: that
  // can be read in pieces of 16 bytes.
  Written inputs(const Sizes& s, int64_t T, bool aligned = false) {
    Written w;
    w.kv_a = aligned ? make.strided(random_activation({T, s.C + s.rope + 16}), 8, s.C + s.rope)
                     : make.strided(random_activation({T, s.C + s.rope + 5}), 2, s.C + s.rope);
    w.weight = make.normal(DType::kF32, {s.C}, 0.2f, 1);
    w.rope = rope_table(60 + T, s.rope);
    std::vector<int32_t> positions;
    for (int64_t t = 0; t < T; ++t) {
      positions.push_back(static_cast<int32_t>(60 + t));
      w.slots.push_back((t * 37 + 5) % (2 * kPageTokens));
    }
    w.positions = make.i32({T}, positions);
    return w;
  }
  Written& write(Written& w, CacheType type, const Sizes& s) {
    w.cache = empty_cache(type, s, 2);
    const auto T = static_cast<int64_t>(w.slots.size());
    ops::mla_write_kv(exec, {.kv_a = w.kv_a,
                             .weight = w.weight,
                             .eps = 1e-6f,
                             .rope = w.rope,
                             .positions = w.positions,
                             .slots = make.i64({T}, w.slots),
                             .cache = w.cache});
    return w;
  }
  static std::vector<double> formula(const Written& w, const Sizes& s, int64_t t) {
    const std::vector<double> kv = values_of(rows(w.kv_a, t, 1));
    Matrix latent(1, s.C);
    std::copy_n(kv.begin(), s.C, latent.values.begin());
    std::vector<double> row = rms_normed(latent, values_of(w.weight), 1e-6).values;
    row.insert(row.end(), kv.begin() + s.C, kv.end());
    rotate(row.data() + s.C, w.rope, 60 + t, s.rope);
    return row;
  }
};

TEST_P(MlaWriteKvTest, AFloat32RowIsTheFormula) {
  for (const Sizes& s : {kReal, kRagged}) {
    for (const int64_t T : {1, 3, 120}) {
      Written w = inputs(s, T);
      write(w, CacheType::kF32, s);
      for (int64_t t = 0; t < T; ++t) {
        const Tensor row = Tensor::of(row_of(w.cache, w.slots[static_cast<size_t>(t)]), DType::kF32,
                                      {s.C + s.rope});
        // Norm: see rms_norm_test. Rotation: three roundings of terms below 8.
        const double roundings = 4 + std::sqrt(static_cast<double>(s.C)) / 2;
        EXPECT_TRUE(close(row, formula(w, s, t), {.rel = roundings * 0x1p-24, .abs = 24 * 0x1p-24}))
            << "token " << t;
      }
    }
  }
}

// The quantised caches hold, byte for byte, what the float32 row becomes in their format; and
// nothing else is written.
TEST_P(MlaWriteKvTest, OtherTypesAreItsEncodingAndNothingElseIsTouched) {
  for (const auto& [s, aligned] : {std::pair{kReal, false}, {kReal, true}, {kRagged, false}}) {
    Written w = inputs(s, 33, aligned);
    write(w, CacheType::kF32, s);
    const MlaCacheView plain = w.cache;
    for (const CacheType type : {CacheType::kF32, CacheType::kBF16, CacheType::kFP8}) {
      write(w, type, s);
      const MlaCacheView want = empty_cache(type, s, 2);
      for (const int64_t slot : w.slots) {
        const std::vector<double> row = decoded(plain, slot);
        const std::vector<float> values(row.begin(), row.end());
        want.format.encode(values.data(), values.data() + s.C, row_of(want, slot));
      }
      EXPECT_TRUE(same_bits(w.cache.pages, want.pages)) << name(type) << " " << aligned;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, MlaWriteKvTest, testing::ValuesIn(backends_under_test()),
                         backend_name);

TEST_P(MlaWriteKvTest, WhatIsNotFiniteInTheCacheIsNamed) {
  for (const CacheType type : {CacheType::kF32, CacheType::kBF16, CacheType::kFP8}) {
    Written w = inputs(kRagged, 5);
    const float nan = NAN;
    from_f32(activation(), &nan, columns(w.kv_a, kRagged.C + 1, 1).at(3), 1);  // to be rotated
    exec.watch(std::make_unique<FiniteCheck>());
    exec.enter("model.layers", 7);
    EXPECT_EQ(error_of([&] { write(w, type, kRagged); }, ErrorKind::kNonFinite),
              "model.layers.7, op 1, mla_write_kv: cache[3, 130] is nan (136 numbers a row; all "
              "that was written before is finite)");
  }
}

// --- mla_query, mla_value -----------------------------------------------------------------------

class MlaProjectionTest : public MlaTest {};

TEST_P(MlaProjectionTest, QueryMatchesTheFormula) {
  struct Case {
    Sizes s;
    DType weights;
    int64_t T;
  };
  constexpr DType kFp8 = DType::kF8E4M3, kBf16 = DType::kBF16;
  for (const auto& [s, weights, T] :
       {Case{kReal, kFp8, 3}, Case{kReal, kBf16, 1}, Case{kReal, kFp8, 70}, Case{kReal, kBf16, 9},
        Case{kRagged, kFp8, 3}, Case{kRagged, kBf16, 9}}) {
    const Weight w = kv_b(s, weights);
    const RopeTable rope = rope_table(80, s.rope);
    std::vector<int32_t> at;
    for (int64_t t = 0; t < T; ++t) at.push_back(static_cast<int32_t>((t * 31 + 79) % 80));
    const Tensor q = random_activation({T, s.H, s.nope + s.rope});
    const Tensor out = empty_activation({T, s.H, s.C + s.rope});
    ops::mla_query(exec, {.out = out,
                          .q = q,
                          .kv_b_proj = w,
                          .v_head_dim = s.v,
                          .rope = rope,
                          .positions = make.i32({T}, at)});
    const Matrix x(q), kv = dense(w);
    Matrix want(T * s.H, s.C + s.rope);
    for (int64_t r = 0; r < T * s.H; ++r) {
      const int64_t first = (r % s.H) * (s.nope + s.v);  // W_UK of this head
      for (int64_t c = 0; c < s.C; ++c)
        for (int64_t i = 0; i < s.nope; ++i) want(r, c) += x(r, i) * kv(first + i, c);
      for (int64_t i = 0; i < s.rope; ++i) want(r, s.C + i) = x(r, s.nope + i);
      rotate(&want(r, s.C), rope, at[static_cast<size_t>(r / s.H)], s.rope);
    }
    Tolerance tol = sum_of(s.nope, activation(), 4);
    tol.abs += 24 * 0x1p-24;  // the rotation: three roundings of terms below 8
    EXPECT_TRUE(close(out, want.values, tol)) << "C=" << s.C << " " << name(weights) << " T=" << T;
  }
}

TEST_P(MlaProjectionTest, ValueMatchesTheFormula) {
  for (const auto& [s, T] : {std::pair{kReal, 3}, {kReal, 70}, {kRagged, 3}, {kRagged, 9}}) {
    const Weight w = kv_b(s);
    const Tensor latent = random_activation({T, s.H, s.C}), out = empty_activation({T, s.H, s.v});
    ops::mla_value(exec,
                   {.out = out, .latent = latent, .kv_b_proj = w, .qk_nope_head_dim = s.nope});
    const Matrix x(latent), kv = dense(w);
    Matrix want(T * s.H, s.v);
    for (int64_t r = 0; r < T * s.H; ++r)
      for (int64_t i = 0; i < s.v; ++i)
        for (int64_t c = 0; c < s.C; ++c)
          want(r, i) += x(r, c) * kv((r % s.H) * (s.nope + s.v) + s.nope + i, c);
    EXPECT_TRUE(close(out, want.values, sum_of(s.C, activation(), 4))) << "C=" << s.C;
  }
}

TEST_P(MlaProjectionTest, ATokenDoesNotDependOnItsNeighbours) {
  const Sizes& s = kReal;
  const int64_t T = 70;
  const Weight w = kv_b(s);
  const RopeTable rope = rope_table(T, s.rope);
  std::vector<int32_t> at;
  for (int32_t t = 0; t < T; ++t) at.push_back(t);
  const Tensor positions = make.i32({T}, at);
  const Tensor q = random_activation({T, s.H, s.nope + s.rope});
  const Tensor latent = random_activation({T, s.H, s.C});
  const auto query = [&](int64_t first, int64_t n) {
    const Tensor out = empty_activation({n, s.H, s.C + s.rope});
    ops::mla_query(exec, {.out = out,
                          .q = rows(q, first, n),
                          .kv_b_proj = w,
                          .v_head_dim = s.v,
                          .rope = rope,
                          .positions = rows(positions, first, n)});
    return out;
  };
  const auto value = [&](int64_t first, int64_t n) {
    const Tensor out = empty_activation({n, s.H, s.v});
    ops::mla_value(
        exec,
        {.out = out, .latent = rows(latent, first, n), .kv_b_proj = w, .qk_nope_head_dim = s.nope});
    return out;
  };
  const Tensor queries = query(0, T), values_of_20 = value(0, 20);
  for (const auto& [first, n] : {std::pair{5, 1}, {65, 3}, {5, 9}, {3, 60}}) {
    EXPECT_TRUE(same_bits(query(first, n), rows(queries, first, n))) << first << " " << n;
  }
  for (const int64_t n : {1, 3, 9})
    EXPECT_TRUE(same_bits(value(5, n), rows(values_of_20, 5, n))) << n;
}

INSTANTIATE_TEST_SUITE_P(Backends, MlaProjectionTest, testing::ValuesIn(backends_under_test()),
                         backend_name);

// --- mla_attention ------------------------------------------------------------------------------

// Two sequences in one batch: a chunk of 5 tokens at positions 66.. (over a page's end), and one
// token at position 130 (its third page).
class MlaAttentionTest : public MlaTest {
 protected:
  static constexpr int64_t kT = 6, kBlocks = 7;
  const std::vector<int32_t> positions_ = {66, 67, 68, 69, 70, 130};
  const std::vector<int32_t> cu_ = {0, 5, 6};

  // blocks: of sequence 0, then of sequence 1, three each.
  void fill_cache(CacheType type, const Sizes& s, const std::vector<int32_t>& blocks) {
    cache_ = empty_cache(type, s, kBlocks);
    table_ = make.i32({2, 3}, blocks);
    TensorMaker values(7);  // the same rows wherever they lie
    const std::vector<int64_t> lengths = {71, 131};
    for (size_t q = 0; q < 2; ++q) {
      for (int64_t p = 0; p < lengths[q]; ++p) {
        const Tensor row = values.normal(DType::kF32, {s.C + s.rope});
        cache_.format.encode(row.ptr<float>(), row.ptr<float>() + s.C, row_of(cache_, slot(q, p)));
      }
    }
  }
  int64_t slot(size_t sequence, int64_t position) const {
    const int32_t block = table_.ptr<int32_t>(static_cast<int64_t>(sequence))[position / 64];
    return block * kPageTokens + position % kPageTokens;
  }
  MlaAttentionArgs args(const Tensor& out, const Tensor& q) {
    return {.out = out,
            .q = q,
            .cache = cache_,
            .positions = make.i32({kT}, positions_),
            .cu_seqlens_q = make.i32({3}, cu_),
            .block_table = table_,
            .softmax_scale = scale_};
  }
  // Weights of the rows 0..position for one query row.
  std::vector<double> softmax(const Matrix& q, int64_t row, size_t sequence) const {
    std::vector<double> p;
    double sum = 0;
    for (int64_t s = 0; s <= positions_[static_cast<size_t>(row / heads(q))]; ++s) {
      const std::vector<double> k = decoded(cache_, slot(sequence, s));
      double score = 0;
      for (int64_t i = 0; i < q.columns; ++i) score += q(row, i) * k[static_cast<size_t>(i)];
      p.push_back(std::exp(score * static_cast<double>(scale_)));
      sum += p.back();
    }
    for (double& v : p) v /= sum;
    return p;
  }
  static int64_t heads(const Matrix& q) { return q.rows / kT; }

  // Of two results of the same rows on a GPU.
  Tolerance split_or_not() const {
    return {.rel = 2 * rounding(activation()), .abs = 2 * kRoundedWeights};
  }

  MlaCacheView cache_;
  Tensor table_;
  float scale_ = 0.05f;  // scores of about one for rows of width 576
};

TEST_P(MlaAttentionTest, MatchesTheFormulaForEveryCacheType) {
  for (const Sizes& s : {kReal, kRagged}) {
    for (const CacheType type : {CacheType::kF32, CacheType::kBF16, CacheType::kFP8}) {
      fill_cache(type, s, {4, 1, -1, 6, 0, 3});
      const Tensor q = random_activation({kT, s.H, s.C + s.rope});
      const Tensor out = empty_activation({kT, s.H, s.C});
      ops::mla_attention(exec, args(out, q));
      const Matrix x(q);
      Matrix want(kT * s.H, s.C);
      for (int64_t r = 0; r < x.rows; ++r) {
        const size_t sequence = r / s.H < 5 ? 0 : 1;
        const std::vector<double> p = softmax(x, r, sequence);
        for (size_t k = 0; k < p.size(); ++k) {
          const std::vector<double> row = decoded(cache_, slot(sequence, static_cast<int64_t>(k)));
          for (int64_t c = 0; c < s.C; ++c) want(r, c) += p[k] * row[static_cast<size_t>(c)];
        }
      }
      // A score summed in float32 over the row's width moves p by as much, relatively.
      Tolerance tol = sum_of(s.C + s.rope, activation(), 16);
      if (on_cuda()) tol.abs += kRoundedWeights;
      EXPECT_TRUE(close(out, want.values, tol)) << name(type);
    }
  }
}

TEST_P(MlaAttentionTest, WhereThePagesLieChangesNoBit) {
  const Tensor q = random_activation({kT, kReal.H, kReal.C + kReal.rope});
  const Tensor a = empty_activation({kT, kReal.H, kReal.C}), b = make.copy(a);
  for (const CacheType type : {CacheType::kF32, CacheType::kBF16, CacheType::kFP8}) {
    fill_cache(type, kReal, {0, 1, -1, 2, 3, 4});
    ops::mla_attention(exec, args(a, q));
    fill_cache(type, kReal, {5, 2, -1, 0, 6, 1});
    ops::mla_attention(exec, args(b, q));
    EXPECT_TRUE(same_bits(a, b)) << name(type);
  }
}

TEST_P(MlaAttentionTest, ATokenInABatchIsATokenAlone) {
  for (const CacheType type : {CacheType::kBF16, CacheType::kFP8}) {
    fill_cache(type, kReal, {4, 1, -1, 6, 0, 3});
    const Tensor q = random_activation({kT, kReal.H, kReal.C + kReal.rope});
    const Tensor all = empty_activation({kT, kReal.H, kReal.C});
    ops::mla_attention(exec, args(all, q));
    for (int64_t t = 0; t < kT; ++t) {
      MlaAttentionArgs one = args(empty_activation({1, kReal.H, kReal.C}), rows(q, t, 1));
      one.positions = make.i32({1}, {positions_[static_cast<size_t>(t)]});
      one.cu_seqlens_q = make.i32({2}, {0, 1});
      one.block_table = rows(table_, t < 5 ? 0 : 1, 1);
      ops::mla_attention(exec, one);
      // A prefill row alone is a decode row, which is split.
      if (on_cuda() && t < 5)
        EXPECT_TRUE(close(one.out, rows(all, t, 1), split_or_not())) << name(type);
      else
        EXPECT_TRUE(same_bits(one.out, rows(all, t, 1))) << name(type) << " token " << t;
    }
  }
}

TEST_P(MlaAttentionTest, TwoTokensBesideASequenceOfNoneAreTokensAlone) {
  for (const CacheType type : {CacheType::kBF16, CacheType::kFP8}) {
    fill_cache(type, kReal, {4, 1, -1, 6, 0, 3});
    const Tensor q = random_activation({2, kReal.H, kReal.C + kReal.rope});
    const Tensor both = empty_activation({2, kReal.H, kReal.C});
    MlaAttentionArgs a = args(both, q);
    a.positions = make.i32({2}, {69, 70});
    a.cu_seqlens_q = make.i32({3}, {0, 2, 2});
    ops::mla_attention(exec, a);
    for (int64_t t = 0; t < 2; ++t) {
      MlaAttentionArgs one = args(empty_activation({1, kReal.H, kReal.C}), rows(q, t, 1));
      one.positions = rows(a.positions, t, 1);
      one.cu_seqlens_q = make.i32({2}, {0, 1});
      one.block_table = rows(table_, 0, 1);
      ops::mla_attention(exec, one);
      EXPECT_TRUE(close(one.out, rows(both, t, 1), on_cuda() ? split_or_not() : Tolerance{}))
          << name(type) << " " << t;
    }
  }
}

// Whoever writes a cache keeps a NaN, as a code or in a bf16; so has whoever reads it.
TEST_P(MlaAttentionTest, WhatIsNanInTheCacheIsNanInTheResult) {
  constexpr int64_t kNan = 40;  // a token that all of sequence 0 see
  for (const Sizes& s : {kReal, kRagged}) {
    for (const CacheType type : {CacheType::kF32, CacheType::kBF16, CacheType::kFP8}) {
      fill_cache(type, s, {4, 1, -1, 6, 0, 3});
      Tensor row = make.normal(DType::kF32, {s.C + s.rope});
      row.ptr<float>()[s.C - 2] = NAN;
      cache_.format.encode(row.ptr<float>(), row.ptr<float>() + s.C, row_of(cache_, slot(0, kNan)));
      const Tensor q = random_activation({kT, s.H, s.C + s.rope});
      const Tensor out = empty_activation({kT, s.H, s.C});
      ops::mla_attention(exec, args(out, q));
      const std::vector<double> values = values_of(out);
      const auto first_of_1 = values.begin() + 5 * s.H * s.C;
      const auto is_nan = [](double v) { return std::isnan(v); };
      EXPECT_TRUE(std::all_of(values.begin(), first_of_1, is_nan)) << name(type) << " C=" << s.C;
      EXPECT_TRUE(std::none_of(first_of_1, values.end(), is_nan)) << name(type) << " C=" << s.C;
    }
  }
}

TEST_P(MlaAttentionTest, ExpandedIsAbsorbed) {
  for (const Sizes& s : {kReal, kRagged}) {
    if (on_cuda() && s.C == kRagged.C) continue;  // heads of released models only
    fill_cache(CacheType::kFP8, s, {4, 1, -1, 6, 0, 3});
    const Weight w = kv_b(s);
    const RopeTable rope = rope_table(131, s.rope);
    const Tensor q = random_activation({kT, s.H, s.nope + s.rope});
    const Tensor absorbed = empty_activation({kT, s.H, s.C + s.rope});
    const Tensor latent = empty_activation({kT, s.H, s.C});
    const Tensor out = empty_activation({kT, s.H, s.v}), expanded = make.copy(out);
    const MlaAttentionArgs a = args(latent, absorbed);
    ops::mla_query(exec, {.out = absorbed,
                          .q = q,
                          .kv_b_proj = w,
                          .v_head_dim = s.v,
                          .rope = rope,
                          .positions = a.positions});
    ops::mla_attention(exec, a);
    ops::mla_value(exec,
                   {.out = out, .latent = latent, .kv_b_proj = w, .qk_nope_head_dim = s.nope});
    ops::mla_expanded_attention(exec, {.out = expanded,
                                       .q = q,
                                       .kv_b_proj = w,
                                       .rope = rope,
                                       .cache = cache_,
                                       .positions = a.positions,
                                       .cu_seqlens_q = a.cu_seqlens_q,
                                       .block_table = table_,
                                       .softmax_scale = scale_});
    // The absorbed form stores q and the latents as activations, u = half an ulp each. A query of
    // C + rope <= 576 elements of size <= 3 moves a score by scale * 3 sqrt(576) u < 4 u, hence
    // every p by that; the latents (below 1 here) move a value of C terms by u. Outputs are < 1.
    // What CUDA's expanded form rounds (mla_expanded_test.cc) is less.
    const double u = rounding(activation());
    EXPECT_TRUE(close(expanded, out, {.rel = 8 * u, .abs = 8 * u})) << "C=" << s.C;
  }
}

TEST_P(MlaAttentionTest, NoTokensAndWrongArguments) {
  fill_cache(CacheType::kF32, kRagged, {4, 1, -1, 6, 0, 3});
  MlaAttentionArgs a = args(empty_activation({0, 3, 130}), empty_activation({0, 3, 136}));
  a.positions = make.i32({0}, {});
  a.cu_seqlens_q = make.i32({3}, {0, 0, 0});
  ops::mla_attention(exec, a);
  a.cu_seqlens_q = make.i32({2}, {0, 0});
  EXPECT_EQ(error_of([&] { ops::mla_attention(exec, a); }, ErrorKind::kInternal),
            "mla_attention: cu_seqlens_q is i32 [2], expected i32 [3]");
  a.cache.pages = make.empty(DType::kU8, {2, 5});
  EXPECT_EQ(error_of([&] { ops::mla_attention(exec, a); }, ErrorKind::kInternal),
            "mla_attention: cache.pages is u8 [2, 5], expected u8 [n_blocks, 34816]");
}

INSTANTIATE_TEST_SUITE_P(Backends, MlaAttentionTest, testing::ValuesIn(backends_under_test()),
                         backend_name);

}  // namespace
}  // namespace dsr::test
