#include "ops/gqa.h"

#include <algorithm>

#include "device/finite_check.h"
#include "ops/formulas.h"
#include "support/backends_under_test.h"
#include "support/expect_error.h"

namespace dsr::test {
namespace {

// Heads of R1-Distill-Llama and of an MHA model, few of them; and ragged ones.
struct Sizes {
  int64_t H, G, d;
};
constexpr Sizes kGrouped{8, 2, 128}, kMha{3, 3, 128}, kRagged{6, 2, 10};
constexpr CacheType kTypes[] = {CacheType::kF32, CacheType::kBF16, CacheType::kFP8};

// The pairs (i, i + d / 2) of a head turned by a position's angles.
void rotate(double* x, const RopeTable& rope, int64_t position, int64_t d) {
  for (int64_t i = 0; i < d / 2; ++i) {
    const double cos = static_cast<double>(rope.cos.ptr<float>(position)[i]);
    const double sin = static_cast<double>(rope.sin.ptr<float>(position)[i]);
    const double a = x[i], b = x[i + d / 2];
    x[i] = a * cos - b * sin;
    x[i + d / 2] = a * sin + b * cos;
  }
}

class GqaTest : public OpTest {
 protected:
  RopeTable rope_table(int64_t positions, int64_t d) {
    const RopeTable out{make.empty(DType::kF32, {positions, d / 2}),
                        make.empty(DType::kF32, {positions, d / 2})};
    for (int64_t p = 0; p < positions; ++p) {
      for (int64_t i = 0; i < d / 2; ++i) {
        const double angle =
            static_cast<double>(p) *
            std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(d));
        out.cos.ptr<float>(p)[i] = static_cast<float>(std::cos(angle));
        out.sin.ptr<float>(p)[i] = static_cast<float>(std::sin(angle));
      }
    }
    return out;
  }
  GqaCacheView empty_cache(CacheType type, const Sizes& s, int64_t n_blocks) {
    const GqaPageFormat format{type, s.G, s.d};
    return {format, make.empty(DType::kU8, {n_blocks, format.page_bytes()})};
  }
  static std::byte* page(const GqaCacheView& cache, int64_t slot) {
    return cache.pages.ptr<std::byte>(slot / kPageTokens);
  }
  // The cached keys or values [G, d] of a slot.
  static std::vector<double> decoded(const GqaCacheView& cache, int64_t slot, bool values) {
    const GqaPageFormat& f = cache.format;
    std::vector<float> out(static_cast<size_t>(f.n_kv_heads * f.head_dim));
    for (int64_t g = 0; g < f.n_kv_heads; ++g) {
      float* head = out.data() + g * f.head_dim;
      if (values)
        f.decode_value(page(cache, slot), g, slot % kPageTokens, head);
      else
        f.decode_key(page(cache, slot), g, slot % kPageTokens, head);
    }
    return {out.begin(), out.end()};
  }
};

// --- gqa_write_kv -------------------------------------------------------------------------------

class GqaWriteKvTest : public GqaTest {
 protected:
  // T tokens at positions 60, 61, ... in slots scattered over two pages; q, k and v lie beside each
  // other, as the one projection leaves them.
  GqaWriteKvArgs inputs(const Sizes& s, int64_t T) {
    const Tensor qkv = random_activation({T, (s.H + 2 * s.G) * s.d});
    std::vector<int32_t> positions;
    slots_.clear();
    for (int64_t t = 0; t < T; ++t) {
      positions.push_back(static_cast<int32_t>(60 + t));
      slots_.push_back((t * 37 + 5) % (2 * kPageTokens));
    }
    return {.k = reshape(columns(qkv, s.H * s.d, s.G * s.d), {T, s.G, s.d}),
            .v = reshape(columns(qkv, (s.H + s.G) * s.d, s.G * s.d), {T, s.G, s.d}),
            .rope = rope_table(60 + T, s.d),
            .positions = make.i32({T}, positions),
            .slots = make.i64({T}, slots_),
            .cache = {}};
  }
  GqaCacheView write(GqaWriteKvArgs a, CacheType type, const Sizes& s) {
    a.cache = empty_cache(type, s, 2);
    ops::gqa_write_kv(exec, a);
    return a.cache;
  }

  std::vector<int64_t> slots_;
};

TEST_P(GqaWriteKvTest, AFloat32PageIsTheFormula) {
  for (const Sizes& s : {kGrouped, kMha, kRagged}) {
    for (const int64_t T : {1, 3, 120}) {
      const GqaWriteKvArgs a = inputs(s, T);
      const GqaCacheView cache = write(a, CacheType::kF32, s);
      for (int64_t t = 0; t < T; ++t) {
        const int64_t slot = slots_[static_cast<size_t>(t)];
        std::vector<double> k = values_of(rows(a.k, t, 1));
        for (int64_t g = 0; g < s.G; ++g) rotate(k.data() + g * s.d, a.rope, 60 + t, s.d);
        const std::vector<double> got = decoded(cache, slot, false);
        for (size_t i = 0; i < k.size(); ++i)  // three roundings of terms below 8
          ASSERT_NEAR(got[i], k[i], 24 * 0x1p-24) << "token " << t << " value " << i;
        EXPECT_EQ(decoded(cache, slot, true), values_of(rows(a.v, t, 1))) << "token " << t;
      }
    }
  }
}

// The quantised caches hold, byte for byte, what the float32 rows become in their format; and
// nothing else is written.
TEST_P(GqaWriteKvTest, OtherTypesAreItsEncodingAndNothingElseIsTouched) {
  for (const Sizes& s : {kGrouped, kMha, kRagged}) {
    const GqaWriteKvArgs a = inputs(s, 33);
    const GqaCacheView plain = write(a, CacheType::kF32, s);
    for (const CacheType type : kTypes) {
      const GqaCacheView got = write(a, type, s), want = empty_cache(type, s, 2);
      for (const int64_t slot : slots_) {
        const std::vector<double> k = decoded(plain, slot, false), v = decoded(plain, slot, true);
        const std::vector<float> kf(k.begin(), k.end()), vf(v.begin(), v.end());
        want.format.encode(kf.data(), vf.data(), page(want, slot), slot % kPageTokens);
      }
      EXPECT_TRUE(same_bits(got.pages, want.pages)) << name(type);
    }
  }
}

TEST_P(GqaWriteKvTest, WhatIsNotFiniteInTheCacheIsNamed) {
  for (const CacheType type : kTypes) {
    const GqaWriteKvArgs a = inputs(kRagged, 5);
    const float nan = NAN;
    from_f32(activation(), &nan, a.v.at(3, 1, 4), 1);  // behind 2 x 10 keys and 10 values
    exec.watch(std::make_unique<FiniteCheck>());
    exec.enter("model.layers", 7);
    EXPECT_EQ(error_of([&] { write(a, type, kRagged); }, ErrorKind::kNonFinite),
              "model.layers.7, op 1, gqa_write_kv: cache[3, 34] is nan (40 numbers a row; all that "
              "was written before is finite)");
  }
}

TEST_P(GqaWriteKvTest, NoTokensAndWrongArguments) {
  GqaWriteKvArgs a = inputs(kRagged, 3);
  a.cache = empty_cache(CacheType::kF32, kRagged, 2);
  const auto refusal = [&](const GqaWriteKvArgs& args) {
    return error_of([&] { ops::gqa_write_kv(exec, args); }, ErrorKind::kInternal);
  };
  GqaWriteKvArgs none = a;
  none.k = none.v = empty_activation({0, 2, 10});
  none.positions = make.i32({0}, {});
  none.slots = make.i64({0}, {});
  ops::gqa_write_kv(exec, none);

  const std::string type = name(activation());
  GqaWriteKvArgs bad = a;
  bad.v = empty_activation({3, 3, 10});
  EXPECT_EQ(refusal(bad),
            "gqa_write_kv: v is " + type + " [3, 3, 10], expected " + type + " [T=3, 2, 10]");
  bad = a;
  bad.rope.sin = make.empty(DType::kF32, {63, 4});
  EXPECT_EQ(refusal(bad), "gqa_write_kv: rope.sin is f32 [63, 4], expected f32 [P=63, 5]");
  bad = a;
  bad.slots = make.i32({3}, {0, 1, 2});
  EXPECT_EQ(refusal(bad), "gqa_write_kv: slots is i32 [3], expected i64 [T=3]");
  bad = a;
  bad.cache.pages = make.empty(DType::kU8, {2, 5});
  EXPECT_EQ(refusal(bad), "gqa_write_kv: cache.pages is u8 [2, 5], expected u8 [n_blocks, 10240]");
}

INSTANTIATE_TEST_SUITE_P(Backends, GqaWriteKvTest, testing::ValuesIn(backends_under_test()),
                         backend_name);

// --- gqa_attention ------------------------------------------------------------------------------

// Three sequences in one batch: a chunk of 5 tokens at positions 66.. (over a page's end), none,
// and one token at position 130 (its third page).
class GqaAttentionTest : public GqaTest {
 protected:
  static constexpr int64_t kT = 6, kBlocks = 7;
  const std::vector<int32_t> positions_ = {66, 67, 68, 69, 70, 130};
  const std::vector<int32_t> cu_ = {0, 5, 5, 6};

  // blocks: three of each sequence.
  void fill_cache(CacheType type, const Sizes& s, const std::vector<int32_t>& blocks) {
    cache_ = empty_cache(type, s, kBlocks);
    rope_ = rope_table(131, s.d);
    table_ = make.i32({3, 3}, blocks);
    TensorMaker values(7);  // the same rows wherever they lie
    const std::vector<int64_t> lengths = {71, 0, 131};
    for (int64_t q = 0; q < 3; ++q) {
      for (int64_t p = 0; p < lengths[static_cast<size_t>(q)]; ++p) {
        const Tensor kv = values.normal(DType::kF32, {2, s.G * s.d});
        cache_.format.encode(kv.ptr<float>(0), kv.ptr<float>(1), page(cache_, slot(q, p)),
                             p % kPageTokens);
      }
    }
  }
  int64_t slot(int64_t sequence, int64_t position) const {
    return table_.ptr<int32_t>(sequence)[position / 64] * kPageTokens + position % kPageTokens;
  }
  GqaAttentionArgs args(const Tensor& out, const Tensor& q) {
    return {.out = out,
            .q = q,
            .rope = rope_,
            .cache = cache_,
            .positions = make.i32({kT}, positions_),
            .cu_seqlens_q = make.i32({4}, cu_),
            .block_table = table_,
            .softmax_scale = scale_};
  }
  // One head of one token: softmax(rope(q) . k * scale) v over the positions it sees.
  std::vector<double> formula(std::vector<double> q, int64_t t, int64_t kv_head) const {
    return formula(std::move(q), positions_[static_cast<size_t>(t)], t < 5 ? 0 : 2, kv_head);
  }
  std::vector<double> formula(std::vector<double> q, int64_t position, int64_t sequence,
                              int64_t kv_head) const {
    const int64_t d = cache_.format.head_dim;
    rotate(q.data(), rope_, position, d);
    std::vector<double> out(static_cast<size_t>(d), 0.0);
    double total = 0;
    for (int64_t s = 0; s <= position; ++s) {
      const std::vector<double> k = decoded(cache_, slot(sequence, s), false);
      const std::vector<double> v = decoded(cache_, slot(sequence, s), true);
      const auto first = static_cast<size_t>(kv_head * d);
      double score = 0;
      for (size_t i = 0; i < q.size(); ++i) score += q[i] * k[first + i];
      const double p = std::exp(score * static_cast<double>(scale_));
      total += p;
      for (size_t i = 0; i < out.size(); ++i) out[i] += p * v[first + i];
    }
    for (double& x : out) x /= total;
    return out;
  }

  // Tensor cores take the rotated query and p as bf16. The first moves a score, hence p relatively,
  // by scale sqrt(d) 2^-9 / sqrt(3) = 1.1 2^-9 / sqrt(3), the second p by 2^-9 / sqrt(3) of itself;
  // the sum of p v with sqrt(sum p^2) = 0.25 by a quarter of both; six standard deviations. Rows of
  // fp8 they take as bf16 too: keys err like the query, values like p.
  static double rounded_operands(CacheType type) {
    return type == CacheType::kFP8 ? 1.5 * std::sqrt(2.0) * 0x1p-9 : 1.5 * 0x1p-9;
  }

  GqaCacheView cache_;
  RopeTable rope_;
  Tensor table_;
  float scale_ = 0.1f;  // scores of about one for heads of 128
};

const std::vector<int32_t> kTable = {4, 1, -1, -1, -1, -1, 6, 0, 3};

TEST_P(GqaAttentionTest, MatchesTheFormulaForEveryCacheType) {
  for (const Sizes& s : {kGrouped, kMha, kRagged}) {
    for (const CacheType type : kTypes) {
      fill_cache(type, s, kTable);
      const Tensor q = random_activation({kT, s.H, s.d});
      const Tensor out = empty_activation({kT, s.H, s.d});
      ops::gqa_attention(exec, args(out, q));
      const Matrix x(q);
      std::vector<double> want;
      for (int64_t r = 0; r < x.rows; ++r) {
        const auto* row = &x.values[static_cast<size_t>(r * s.d)];
        const int64_t kv_head = r % s.H * s.G / s.H;
        const std::vector<double> o = formula({row, row + s.d}, r / s.H, kv_head);
        want.insert(want.end(), o.begin(), o.end());
      }
      // The rotated query is float32: three roundings of terms below 8 in each of d components,
      // against keys of about 1, move a score by scale * sqrt(d) * 24 * 2^-24 and p by as much.
      Tolerance tol = sum_of(s.d, activation(), 16);
      tol.abs += 0.1 * std::sqrt(static_cast<double>(s.d)) * 24 * 0x1p-24;
      if (on_cuda()) tol.abs += rounded_operands(type);
      EXPECT_TRUE(close(out, want, tol)) << name(type) << " H=" << s.H;
    }
  }
}

// Rows so long that their parts on a GPU have more than 64 tokens.
TEST_P(GqaAttentionTest, LongRowsMatchTheFormula) {
  for (const Sizes& s : {Sizes{2, 2, 128}, Sizes{4, 1, 128}}) {
    for (const auto& [n, type] : {std::pair{1025, CacheType::kBF16},
                                  {1301, CacheType::kBF16},
                                  {8300, CacheType::kBF16},
                                  {63, CacheType::kFP8},
                                  {1301, CacheType::kFP8}}) {
      if (!on_cuda() && n > 1025) continue;  // nothing is split there
      const int64_t blocks = (n + kPageTokens - 1) / kPageTokens;
      cache_ = empty_cache(type, s, blocks);
      rope_ = rope_table(n, s.d);
      std::vector<int32_t> backwards;
      for (int64_t b = blocks; b-- > 0;) backwards.push_back(static_cast<int32_t>(b));
      table_ = make.i32({1, blocks}, backwards);
      for (int64_t p = 0; p < n; ++p) {
        const Tensor kv = make.normal(DType::kF32, {2, s.G * s.d});
        cache_.format.encode(kv.ptr<float>(0), kv.ptr<float>(1), page(cache_, slot(0, p)),
                             p % kPageTokens);
      }
      const Tensor q = random_activation({1, s.H, s.d}), out = empty_activation(q.shape);
      GqaAttentionArgs a = args(out, q);
      a.positions = make.i32({1}, {n - 1});
      a.cu_seqlens_q = make.i32({2}, {0, 1});
      ops::gqa_attention(exec, a);
      const Matrix x(q);
      std::vector<double> want;
      for (int64_t h = 0; h < s.H; ++h) {
        const auto* row = &x.values[static_cast<size_t>(h * s.d)];
        const std::vector<double> o = formula({row, row + s.d}, n - 1, 0, h * s.G / s.H);
        want.insert(want.end(), o.begin(), o.end());
      }
      Tolerance tol = sum_of(n, activation(), 1);
      tol.abs += 0.1 * std::sqrt(static_cast<double>(s.d)) * 24 * 0x1p-24;
      if (on_cuda()) tol.abs += rounded_operands(type);
      EXPECT_TRUE(close(out, want, tol))
          << name(type) << " n=" << n << " H=" << s.H << " G=" << s.G;
    }
  }
}

TEST_P(GqaAttentionTest, WhereThePagesLieChangesNoBit) {
  const Tensor q = random_activation({kT, kGrouped.H, kGrouped.d});
  const Tensor a = empty_activation(q.shape), b = make.copy(a);
  for (const CacheType type : kTypes) {
    fill_cache(type, kGrouped, {0, 1, -1, -1, -1, -1, 2, 3, 4});
    ops::gqa_attention(exec, args(a, q));
    fill_cache(type, kGrouped, {5, 2, -1, -1, -1, -1, 0, 6, 1});
    ops::gqa_attention(exec, args(b, q));
    EXPECT_TRUE(same_bits(a, b)) << name(type);
  }
}

TEST_P(GqaAttentionTest, ATokenInABatchIsATokenAlone) {
  for (const Sizes& s : {kGrouped, kMha}) {
    for (const CacheType type : {CacheType::kBF16, CacheType::kFP8}) {
      fill_cache(type, s, kTable);
      const Tensor q = random_activation({kT, s.H, s.d});
      const Tensor all = empty_activation(q.shape);
      ops::gqa_attention(exec, args(all, q));
      for (int64_t t = 0; t < kT; ++t) {
        GqaAttentionArgs one = args(empty_activation({1, s.H, s.d}), rows(q, t, 1));
        one.positions = make.i32({1}, {positions_[static_cast<size_t>(t)]});
        one.cu_seqlens_q = make.i32({2}, {0, 1});
        one.block_table = rows(table_, t < 5 ? 0 : 2, 1);
        ops::gqa_attention(exec, one);
        // A prefill row alone is a decode row, which is split.
        const Tolerance split_or_not = {.rel = 2 * rounding(activation()),
                                        .abs = 2 * rounded_operands(type)};
        if (on_cuda() && t < 5)
          EXPECT_TRUE(close(one.out, rows(all, t, 1), split_or_not)) << name(type) << " H=" << s.H;
        else
          EXPECT_TRUE(same_bits(one.out, rows(all, t, 1))) << name(type) << " token " << t;
      }
    }
  }
}

// Whoever writes a cache keeps a NaN, as a code or in a bf16; so has whoever reads it.
TEST_P(GqaAttentionTest, WhatIsNanInTheCacheIsNanInTheResult) {
  constexpr int64_t kNan = 40;  // a token that all of sequence 0 see
  for (const Sizes& s : {kGrouped, kMha, kRagged}) {
    for (const CacheType type : kTypes) {
      for (const int64_t half : {0, 1}) {  // a key, a value
        fill_cache(type, s, kTable);
        const Tensor kv = make.normal(DType::kF32, {2, s.G * s.d});
        kv.ptr<float>(half)[s.d - 2] = NAN;  // of the first KV head
        cache_.format.encode(kv.ptr<float>(0), kv.ptr<float>(1), page(cache_, slot(0, kNan)), kNan);
        const Tensor q = random_activation({kT, s.H, s.d}), out = empty_activation(q.shape);
        ops::gqa_attention(exec, args(out, q));
        const std::vector<double> values = values_of(out);
        for (int64_t i = 0; i < std::ssize(values); ++i) {
          const int64_t token = i / (s.H * s.d), head = i / s.d % s.H, column = i % s.d;
          const bool nan = token < 5 && head * s.G / s.H == 0 && (half == 0 || column == s.d - 2);
          ASSERT_EQ(std::isnan(values[static_cast<size_t>(i)]), nan)
              << name(type) << " H=" << s.H << " half " << half << " at " << i;
        }
      }
    }
  }
}

TEST_P(GqaAttentionTest, NoTokensAndWrongArguments) {
  fill_cache(CacheType::kF32, kRagged, kTable);
  GqaAttentionArgs a = args(empty_activation({0, 6, 10}), empty_activation({0, 6, 10}));
  a.positions = make.i32({0}, {});
  a.cu_seqlens_q = make.i32({4}, {0, 0, 0, 0});
  ops::gqa_attention(exec, a);
  const auto refusal = [&] {
    return error_of([&] { ops::gqa_attention(exec, a); }, ErrorKind::kInternal);
  };
  a.cu_seqlens_q = make.i32({2}, {0, 0});
  EXPECT_EQ(refusal(), "gqa_attention: cu_seqlens_q is i32 [2], expected i32 [4]");
  const std::string type = name(activation());
  a.out = empty_activation({0, 3, 10});
  EXPECT_EQ(refusal(),
            "gqa_attention: out is " + type + " [0, 3, 10], expected " + type + " [T=0, H=6, 10]");
  a.q = a.out;  // 3 heads cannot share 2 KV heads
  EXPECT_NE(refusal(), "");
  a.cache.pages = make.empty(DType::kU8, {2, 5});
  a.q = a.out = empty_activation({0, 6, 10});
  EXPECT_EQ(refusal(), "gqa_attention: cache.pages is u8 [2, 5], expected u8 [n_blocks, 10240]");
}

INSTANTIATE_TEST_SUITE_P(Backends, GqaAttentionTest, testing::ValuesIn(backends_under_test()),
                         backend_name);

}  // namespace
}  // namespace dsr::test
