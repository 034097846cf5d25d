// mla_expanded_attention: prompts at any place of their sequences, behind sequences that are not
// its own, against the formula; contexts that are expanded in several parts against the absorbed
// ops.
#include "ops/formulas.h"
#include "ops/mla_fixture.h"
#include "support/expect_error.h"

namespace dsr::test {
namespace {

// The first tokens are of other sequences: nothing of theirs may be read or written.
constexpr int64_t kOthers = 3;

struct Prompt {
  int64_t first, count;  // positions of the tokens
};

class MlaExpandedTest : public MlaTest {
 protected:
  void SetUp() override {
    MlaTest::SetUp();
    if (GetParam().backend == Backend::kCpu) GTEST_SKIP() << "the definition, as on reference";
  }

  struct Batch {
    MlaCacheView cache;
    Tensor positions, cu, table;
    int64_t T = 0, n_rows = 0;
    std::vector<int64_t> sequence_of;  // of every token behind kOthers
  };

  // Pages in a scattered order, pages of nobody and ends of pages all 0xff. `turn` moves the pages.
  Batch batch(CacheType type, const Sizes& s, const std::vector<Prompt>& prompts, int turn = 0) {
    Batch b;
    int64_t n_blocks = 5, most = 0;
    for (const Prompt& p : prompts) {
      const int64_t blocks = ceil_div(p.first + p.count, kPageTokens);
      n_blocks += blocks;
      most = std::max(most, blocks);
      b.n_rows += blocks * kPageTokens;
    }
    constexpr int64_t kStride = 101;  // from a block to the next one's place
    DSR_CHECK(n_blocks % kStride != 0, n_blocks);
    b.cache = empty_cache(type, s, n_blocks);
    std::vector<int32_t> table, cu = {kOthers}, positions(kOthers, 1 << 20);
    std::vector<float> row(static_cast<size_t>(s.C + s.rope));
    TensorMaker values(11);
    int64_t used = turn;
    for (size_t q = 0; q < prompts.size(); ++q) {
      const int64_t n = prompts[q].first + prompts[q].count;
      for (int64_t i = 0; i < most; ++i) {
        const bool has = i < ceil_div(n, kPageTokens);
        table.push_back(has ? static_cast<int32_t>((used++ * kStride + 3) % n_blocks) : -1);
      }
      for (int64_t p = 0; p < n; ++p) {
        for (float& v : row) v = values.random().next_normal();
        const int64_t block = table[q * static_cast<size_t>(most) + static_cast<size_t>(p / 64)];
        b.cache.format.encode(row.data(), row.data() + s.C,
                              row_of(b.cache, block * kPageTokens + p % kPageTokens));
      }
      for (int64_t i = 0; i < prompts[q].count; ++i) {
        positions.push_back(static_cast<int32_t>(prompts[q].first + i));
        b.sequence_of.push_back(static_cast<int64_t>(q));
      }
      cu.push_back(static_cast<int32_t>(positions.size()));
    }
    b.T = std::ssize(positions);
    b.positions = make.i32({b.T}, positions);
    b.cu = make.i32({std::ssize(cu)}, cu);
    b.table = make.i32({std::ssize(prompts), most}, table);
    return b;
  }

  Tensor expanded(const Batch& b, const Sizes& s, const Tensor& q, const Weight& w,
                  const RopeTable& rope, int64_t n_rows) {
    const Tensor out = empty_activation({b.T, s.H, s.v});
    ops::mla_expanded_attention(exec, {.out = out,
                                       .q = q,
                                       .kv_b_proj = w,
                                       .rope = rope,
                                       .cache = b.cache,
                                       .positions = b.positions,
                                       .cu_seqlens_q = b.cu,
                                       .block_table = b.table,
                                       .softmax_scale = kScale,
                                       .n_rows = n_rows});
    return out;
  }
  // The tokens that prompts own.
  static Tensor own(const Tensor& t) { return rows(t, kOthers, t.shape[0] - kOthers); }

  // A sequence's cache, and keys and values of all heads.
  struct Context {
    std::vector<std::vector<double>> rows;
    Matrix keys, values;  // [n, H * nope], [n, H * v]
  };
  Context context(const Batch& b, const Sizes& s, const Matrix& kv_b, int64_t sequence) const {
    const int64_t n = b.positions.ptr<int32_t>()[b.cu.ptr<int32_t>(sequence)[1] - 1] + 1;
    Context out{{}, Matrix(n, s.H * s.nope), Matrix(n, s.H * s.v)};
    for (int64_t k = 0; k < n; ++k) {
      const int32_t block = b.table.ptr<int32_t>(sequence)[k / kPageTokens];
      out.rows.push_back(decoded(b.cache, block * kPageTokens + k % kPageTokens));
      const auto times = [&](int64_t row) {
        double sum = 0;
        for (int64_t c = 0; c < s.C; ++c)
          sum += kv_b(row, c) * out.rows.back()[static_cast<size_t>(c)];
        return sum;
      };
      for (int64_t h = 0; h < s.H; ++h) {
        const int64_t head = h * (s.nope + s.v);
        for (int64_t i = 0; i < s.nope; ++i) out.keys(k, h * s.nope + i) = times(head + i);
        for (int64_t i = 0; i < s.v; ++i) out.values(k, h * s.v + i) = times(head + s.nope + i);
      }
    }
    return out;
  }

  // Of own(): the definition in double, and the largest sqrt(sum of p^2) of a row.
  Matrix formula(const Batch& b, const Sizes& s, const Tensor& q, const Weight& w,
                 const RopeTable& rope, double& spread) const {
    const Matrix x(q), kv_b = dense(w);
    std::vector<Context> contexts;
    for (int64_t i = 0; i + 1 < b.cu.shape[0]; ++i) contexts.push_back(context(b, s, kv_b, i));
    Matrix out(std::ssize(b.sequence_of) * s.H, s.v);
    for (int64_t r = 0; r < out.rows; ++r) {
      const int64_t t = kOthers + r / s.H, h = r % s.H, row = t * s.H + h;
      const Context& c = contexts[static_cast<size_t>(b.sequence_of[static_cast<size_t>(r / s.H)])];
      const int64_t position = b.positions.ptr<int32_t>()[t];
      std::vector<double> pe(static_cast<size_t>(s.rope)), p;
      for (int64_t i = 0; i < s.rope; ++i) pe[static_cast<size_t>(i)] = x(row, s.nope + i);
      rotate(pe.data(), rope, position, s.rope);
      double sum = 0, squares = 0;
      for (int64_t k = 0; k <= position; ++k) {
        double score = 0;
        for (int64_t i = 0; i < s.nope; ++i) score += x(row, i) * c.keys(k, h * s.nope + i);
        for (int64_t i = 0; i < s.rope; ++i)
          score += pe[static_cast<size_t>(i)] *
                   c.rows[static_cast<size_t>(k)][static_cast<size_t>(s.C + i)];
        p.push_back(std::exp(score * static_cast<double>(kScale)));
        sum += p.back();
        squares += p.back() * p.back();
      }
      spread = std::max(spread, std::sqrt(squares) / sum);
      for (int64_t k = 0; k <= position; ++k)
        for (int64_t i = 0; i < s.v; ++i)
          out(r, i) += p[static_cast<size_t>(k)] / sum * c.values(k, h * s.v + i);
    }
    return out;
  }

  static constexpr float kScale = 0.05f;  // scores of about 0.7 for keys of width 192
};

// On CUDA the latents become bf16 (of a cache of another type), keys, values, the rotated query and
// p as well. Each moves a summand p v relatively by an error of at most 2^-9, so with a standard
// deviation of 2^-9 / sqrt(3); the latent's and the key's by way of a score of standard deviation
// 0.7. Together below 1.2 * 2^-9, independent from key to key: their sum with v of about 1 has
// 1.2 * 2^-9 sqrt(sum of p^2), of which eight are allowed. Where one key has most of p, its value
// may be large: its own rounding is one more of the result.
TEST_P(MlaExpandedTest, PromptsMatchTheFormula) {
  std::vector<std::vector<Prompt>> cases = {{{0, 3}}, {{62, 5}, {0, 1}, {130, 2}}};
  if (on_cuda())
    cases = {{{0, 1}, {0, 3}}, {{0, 200}}, {{62, 65}, {0, 64}, {130, 129}, {63, 1}, {200, 70}}};
  for (const std::vector<Prompt>& prompts : cases) {
    for (const CacheType type : {CacheType::kF32, CacheType::kBF16, CacheType::kFP8}) {
      for (const DType dtype : {DType::kF8E4M3, DType::kBF16}) {
        if (!on_cuda() && (type == CacheType::kFP8) != (dtype == DType::kBF16)) continue;  // some
        const Sizes& s = kReal;
        const Weight w =
            make.weight(dtype, {s.H * (s.nope + s.v)}, s.C, 1 / std::sqrt(static_cast<float>(s.C)));
        const RopeTable rope = rope_table(300, s.rope);
        const Batch b = batch(type, s, prompts);
        const Tensor q = random_activation({b.T, s.H, s.nope + s.rope});
        const Tensor out = expanded(b, s, q, w, rope, b.n_rows);
        double spread = 0;
        const Matrix want = formula(b, s, q, w, rope, spread);
        // A score summed in float32 moves p by as much, relatively; so does a rotation in float32,
        // three roundings of terms below 8.
        Tolerance tol = sum_of(s.C + s.nope + s.rope, activation(), 16);
        tol.abs += 24 * 0x1p-24;
        if (on_cuda()) tol.abs += 8 * 1.2 * 0x1p-9 * spread;
        if (on_cuda()) tol.rel *= 2;
        EXPECT_TRUE(close(own(out), want.values, tol)) << name(type) << " " << name(dtype);
        EXPECT_TRUE(same_bits(rows(out, 0, kOthers), empty_activation({kOthers, s.H, s.v})));
      }
    }
  }
}

TEST_P(MlaExpandedTest, PagesNeighboursAndTheRoomForOthersChangeNoBit) {
  const Sizes& s = kReal;
  const Weight w = kv_b(s);
  const RopeTable rope = rope_table(300, s.rope);
  const int64_t n = on_cuda() ? 33 : 2;  // the definition takes long
  const std::vector<Prompt> prompts = {{62, 5}, {0, 2 * n}, {70, n}};
  const Batch b = batch(CacheType::kBF16, s, prompts),
              moved = batch(CacheType::kBF16, s, prompts, 7);
  const Tensor q = random_activation({b.T, s.H, s.nope + s.rope});
  const Tensor out = expanded(b, s, q, w, rope, b.n_rows);
  EXPECT_TRUE(same_bits(expanded(moved, s, q, w, rope, 0), out));
  Batch last = b;
  last.cu = rows(b.cu, 2, 2);
  last.table = rows(b.table, 2, 1);
  const Tensor alone = expanded(last, s, q, w, rope, 2 * kPageTokens);
  EXPECT_TRUE(same_bits(rows(alone, b.T - n, n), rows(out, b.T - n, n)));
}

// Of 8,192 rows and fewer: sequences that begin in one part and end in the next. Both forms round
// as above; the absorbed one the query, p and the latent. 12 standard deviations, as both err.
TEST_P(MlaExpandedTest, AContextInPartsIsTheAbsorbedForm) {
  if (!on_cuda()) GTEST_SKIP() << "the definition has no parts";
  const Sizes& s = kReal;
  // bf16: values of one variance in all columns, so that scores and values are what they are said
  // to.
  const Weight w = make.weight(DType::kBF16, {s.H * (s.nope + s.v)}, s.C,
                               1 / std::sqrt(static_cast<float>(s.C)));
  const RopeTable rope = rope_table(18000, s.rope);
  for (const std::vector<Prompt>& prompts :
       {std::vector<Prompt>{{4900, 70}, {6000, 130}, {8000, 65}}, {{17400, 200}}, {{8128, 64}}}) {
    const Batch b = batch(CacheType::kBF16, s, prompts);
    const Tensor q = random_activation({b.T, s.H, s.nope + s.rope});
    const Tensor out = expanded(b, s, q, w, rope, b.n_rows);
    const int64_t n = b.T - kOthers;
    const Tensor query = empty_activation({n, s.H, s.C + s.rope});
    const Tensor latent = empty_activation({n, s.H, s.C}), want = empty_activation({n, s.H, s.v});
    std::vector<int32_t> cu;
    for (int64_t i = 0; i < b.cu.shape[0]; ++i)
      cu.push_back(b.cu.ptr<int32_t>()[i] - static_cast<int32_t>(kOthers));
    ops::mla_query(exec, {.out = query,
                          .q = own(q),
                          .kv_b_proj = w,
                          .v_head_dim = s.v,
                          .rope = rope,
                          .positions = own(b.positions)});
    ops::mla_attention(exec, {.out = latent,
                              .q = query,
                              .cache = b.cache,
                              .positions = own(b.positions),
                              .cu_seqlens_q = make.i32({std::ssize(cu)}, cu),
                              .block_table = b.table,
                              .softmax_scale = kScale});
    ops::mla_value(exec,
                   {.out = want, .latent = latent, .kv_b_proj = w, .qk_nope_head_dim = s.nope});
    // exp of a normal deviate of 0.7: sum of p^2 is exp(0.49) / n, of at least 4,900.
    const double spread = std::sqrt(std::exp(0.49) / 4900);
    const double u = rounding(activation());
    EXPECT_TRUE(close(own(out), want, {.rel = 2 * u, .abs = 12 * 1.2 * 0x1p-9 * spread}))
        << prompts.size();
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, MlaExpandedTest, testing::ValuesIn(backends_under_test()),
                         backend_name);

}  // namespace
}  // namespace dsr::test
