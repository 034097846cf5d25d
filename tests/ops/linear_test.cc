#include "ops/linear.h"

#include <cmath>
#include <cstring>

#include "ops/formulas.h"
#include "support/backends_under_test.h"
#include "support/expect_error.h"

namespace dsr::test {
namespace {

struct Case {
  int64_t T;
  std::vector<int64_t> rows;  // of the segments
  int64_t K;
  DType dtype;
  QuantScheme quant = {128, 128};
  DType scales = DType::kF32;
};

// V3's kv_a (its last block of rows is half full) behind a part of its q_a, V2-Lite's widths (10944
// ends in half a block of columns), edges: of a unit of rows, of the steps of a kernel over K, of
// its numbers of tokens.
std::vector<Case> cases() {
  return {{1, {128, 576}, 7168, DType::kF8E4M3},
          {3, {64, 576}, 1536, DType::kF8E4M3},
          {129, {70, 64, 1}, 200, DType::kF8E4M3},
          {3, {100, 30}, 130, DType::kF8E4M3, {128, 128}, DType::kF8E8M0},
          {3, {33, 7}, 50, DType::kF8E4M3, {32, 48}, DType::kF32},
          {1, {576}, 2048, DType::kBF16},
          {129, {64}, 576, DType::kBF16},
          {3, {10, 3}, 5, DType::kF16},
          {1, {1}, 1, DType::kF32},
          {3, {257}, 129, DType::kF32},
          {1, {48}, 10944, DType::kF8E4M3},
          {16, {33, 5}, 1408, DType::kF8E4M3},
          {17, {8, 16, 1, 7, 40}, 192, DType::kF8E4M3, {64, 256}, DType::kF8E8M0},
          {64, {130, 20}, 64, DType::kF8E4M3, {8, 64}},
          {65, {130, 20}, 576, DType::kF8E4M3},
          {70, {96, 48}, 32, DType::kBF16},
          {9, {24}, 96, DType::kBF16},
          {70, {48}, 1500, DType::kF32},
          {40, {20, 3}, 1500, DType::kF16},
          {20, {33}, 2100, DType::kF8E4M3}};
}

// Enough for the GEMMs' widest tiles; the definition takes long.
std::vector<Case> cases(bool on_cuda) {
  std::vector<Case> out = cases();
  if (on_cuda)
    out.insert(out.end(), {{300, {4001, 90}, 320, DType::kF8E4M3},
                           {260, {4100, 3}, 192, DType::kF8E4M3, {64, 256}, DType::kF8E8M0},
                           {257, {4090, 40}, 224, DType::kBF16}});
  return out;
}

std::string text(const Case& c) {
  return str("T=", c.T, " N=", c.rows.front(), "+ K=", c.K, " ", name(c.dtype));
}

// x ~ N(0, 1) and w ~ N(0, 1/K), so that outputs are of order 1.
float sigma(int64_t K) { return 1 / std::sqrt(static_cast<float>(K)); }

class LinearTest : public OpTest {
 protected:
  Weight weight(const Case& c) {
    return make.weight(c.dtype, c.rows, c.K, sigma(c.K), c.quant, c.scales);
  }
};

TEST_P(LinearTest, MatchesTheFormula) {
  for (const Case& c : cases(on_cuda())) {
    const Weight w = weight(c);
    const Tensor x = random_activation({c.T, c.K});
    const Matrix want = times_transposed(Matrix(x), dense(w));
    const Tensor out = empty_activation({c.T, w.rows()}), wide = make.empty(DType::kF32, out.shape);
    ops::linear(exec, {.out = out, .x = x, .w = w, .bias = {}});
    EXPECT_TRUE(close(out, want.values, sum_of(c.K, activation(), 4))) << text(c);
    ops::linear(exec, {.out = wide, .x = x, .w = w, .bias = {}});
    EXPECT_TRUE(close(wide, want.values, sum_of(c.K, DType::kF32, 4))) << text(c);
  }
}

TEST_P(LinearTest, AddsTheBias) {
  const int64_t T = 3, N = 96, K = 576;
  const Weight w = make.weight(DType::kBF16, {N}, K, sigma(K));
  const Tensor x = random_activation({T, K}), bias = make.normal(DType::kF32, {N});
  Matrix want = times_transposed(Matrix(x), dense(w));
  for (int64_t t = 0; t < T; ++t)
    for (int64_t n = 0; n < N; ++n) want(t, n) += static_cast<double>(bias.ptr<float>()[n]);
  const Tensor out = empty_activation({T, N});
  ops::linear(exec, {.out = out, .x = x, .w = w, .bias = bias});
  Tolerance tol = sum_of(K, activation(), 4);
  tol.abs += 0x1p-22;  // the product, at most 4, is rounded to float32 before the bias is added
  EXPECT_TRUE(close(out, want.values, tol));
}

TEST_P(LinearTest, InputAndOutputMayBeColumns) {
  const int64_t T = 5, N = 40, K = 192;
  const Weight w = make.weight(DType::kF8E4M3, {24, 16}, K, sigma(K), {16, 64});
  const Tensor x = make.strided(random_activation({T, K + 33}), 11, K);
  const Tensor wide = empty_activation({T, N + 8});
  const Tensor before = make.copy(wide);
  ops::linear(exec, {.out = columns(wide, 5, N), .x = x, .w = w, .bias = {}});
  const Matrix want = times_transposed(Matrix(x), dense(w));
  EXPECT_TRUE(close(columns(wide, 5, N), want.values, sum_of(K, activation(), 4)));
  EXPECT_TRUE(same_bits(columns(wide, 0, 5), columns(before, 0, 5)));
  EXPECT_TRUE(same_bits(columns(wide, 5 + N, 3), columns(before, 5 + N, 3)));
}

// The first 64 rows that a step may have for decode: alone, and in any number.
TEST_P(LinearTest, ARowDoesNotDependOnItsNeighbours) {
  for (const DType dtype : {DType::kF8E4M3, DType::kBF16, DType::kF16}) {
    const int64_t T = 64, K = 320, N = 70;
    const Weight w = make.weight(dtype, {N}, K, sigma(K));
    const Tensor x = random_activation({T, K}), all = empty_activation({T, N});
    ops::linear(exec, {.out = all, .x = x, .w = w, .bias = {}});
    for (const int64_t n : {1, 2, 7, 8, 9, 16, 17, 33, 63}) {
      for (int64_t first = 0; first + n <= T; first += 21) {
        const Tensor some = empty_activation({n, N});
        ops::linear(exec, {.out = some, .x = rows(x, first, n), .w = w, .bias = {}});
        EXPECT_TRUE(same_bits(some, rows(all, first, n))) << name(dtype) << " " << n;
      }
    }
  }
}

// The same where a block has several groups of rows to go through, and more of K than it can hold
// on the way.
TEST_P(LinearTest, ARowOfALargeProductDoesNotDependOnItsNeighbours) {
  for (const DType dtype : {DType::kF8E4M3, DType::kBF16}) {
    for (const auto& [N, K] : {std::pair<int64_t, int64_t>{6500, 96}, {200, 4800}}) {
      const Weight w = make.weight(dtype, {N - 40, 40}, K, sigma(K));
      const Tensor x = random_activation({64, K}), all = empty_activation({64, N});
      ops::linear(exec, {.out = all, .x = x, .w = w, .bias = {}});
      for (const int64_t n : {3, 15, 30}) {
        const Tensor some = empty_activation({n, N});
        ops::linear(exec, {.out = some, .x = rows(x, 31, n), .w = w, .bias = {}});
        EXPECT_TRUE(same_bits(some, rows(all, 31, n))) << name(dtype) << " " << n << " " << K;
      }
      const Tensor products = empty_activation({64, N / 2}), one = empty_activation({1, N / 2});
      const Weight pair = make.weight(dtype, {N / 2, N / 2}, K, sigma(K));
      ops::swiglu(exec, {.out = products, .x = x, .gate_up = pair});
      ops::swiglu(exec, {.out = one, .x = rows(x, 40, 1), .gate_up = pair});
      EXPECT_TRUE(same_bits(one, rows(products, 40, 1))) << name(dtype) << " " << K;
    }
  }
}

// The one row of a sequence alone, which has kernels of its own: with one and two units of rows for
// a block of the GPU, and the whole and parts of what one holds of K.
TEST_P(LinearTest, TheOnlyRowIsTheSameAmongEight) {
  const int64_t many = on_cuda() ? 3072 : 96;
  const Case shapes[] = {{8, {many, 577}, 2048, DType::kF8E4M3},
                         {8, {many, 64}, 192, DType::kF8E4M3, {128, 128}, DType::kF8E8M0},
                         {8, {200, 7}, 4096, DType::kF8E4M3, {128, 128}, DType::kF8E8M0},
                         {8, {130}, 2624, DType::kF8E4M3},
                         {8, {33, 5}, 1408, DType::kF8E4M3, {64, 256}},
                         {8, {many}, 2048, DType::kBF16}};
  for (const Case& c : shapes) {
    const Weight w = weight(c);
    const Tensor x = random_activation({c.T, c.K}), bias = make.normal(DType::kF32, {w.rows()});
    const Tensor all = empty_activation({c.T, w.rows()}), one = empty_activation({1, w.rows()});
    ops::linear(exec, {.out = all, .x = x, .w = w, .bias = bias});
    for (const int64_t t : {0, 5}) {
      ops::linear(exec, {.out = one, .x = rows(x, t, 1), .w = w, .bias = bias});
      EXPECT_TRUE(same_bits(one, rows(all, t, 1))) << text(c);
    }
  }
}

// Nor does it depend on others where the cpu backend scales the activations of some at a time: of
// 12 with 7168 columns, nine and then three.
TEST_P(LinearTest, ARowIsTheSameAmongTwelveWideOnes) {
  if (on_cuda()) GTEST_SKIP() << "a GPU's kernels for one row are others than for twelve";
  const Case c{12, {33}, 7168, DType::kF8E4M3};
  const Weight w = weight(c);
  const Tensor x = random_activation({c.T, c.K});
  const Tensor all = empty_activation({c.T, w.rows()}), one = empty_activation({1, w.rows()});
  ops::linear(exec, {.out = all, .x = x, .w = w, .bias = {}});
  for (int64_t t = 0; t < c.T; ++t) {
    ops::linear(exec, {.out = one, .x = rows(x, t, 1), .w = w, .bias = {}});
    EXPECT_TRUE(same_bits(one, rows(all, t, 1))) << t;
  }
}

// Rows of NaN beside it, as in the padding of a batch.
TEST_P(LinearTest, ARowOfNansStaysAlone) {
  for (const int64_t T : {3, 12, 40, 70}) {
    const int64_t K = 256, N = 48;
    const Weight w = make.weight(DType::kF8E4M3, {N}, K, sigma(K));
    const Tensor x = random_activation({T, K}), want = empty_activation({T, N});
    ops::linear(exec, {.out = want, .x = x, .w = w, .bias = {}});
    const Tensor poisoned = make.copy(x), out = empty_activation({T, N});
    std::memset(poisoned.at(1), 0xff, static_cast<size_t>(K * size_bytes(x.dtype)));
    ops::linear(exec, {.out = out, .x = poisoned, .w = w, .bias = {}});
    EXPECT_TRUE(same_bits(rows(out, 0, 1), rows(want, 0, 1)));
    EXPECT_TRUE(same_bits(rows(out, 2, T - 2), rows(want, 2, T - 2)));
    for (const double v : values_of(rows(out, 1, 1))) EXPECT_TRUE(std::isnan(v));
  }
}

// A weight that is NaN makes its row's outputs NaN and no other, however weights are decoded and
// whether or not it is remembered that others are not; also where fewer rows share their scales
// than are remembered together.
TEST_P(LinearTest, ANanAmongWeightsStaysInItsRow) {
  if (on_cuda()) GTEST_SKIP() << "a GPU's kernels take such a code for 480: loading looks for them";
  for (const int64_t block_rows : {128, 16})
    for (const int64_t T : {1, 8, 12, 13, 40, 70}) {
      const int64_t K = 1216, N = 80;
      Weight w = make.weight(DType::kF8E4M3, {N}, K, sigma(K), {block_rows, 128});
      const Tensor x = random_activation({T, K});
      const Tensor want = empty_activation({T, N}), out = empty_activation({T, N});
      ops::linear(exec, {.out = want, .x = x, .w = w, .bias = {}});
      w.segments[0].data.ptr<uint8_t>(5)[1201] = 0xff;
      NanFreeRows nan_free(N);
      for (const int times : {0, 1, 2}) {
        if (times > 0) w.segments[0].nan_free = &nan_free;
        ops::linear(exec, {.out = out, .x = x, .w = w, .bias = {}});
        EXPECT_TRUE(same_bits(columns(out, 0, 5), columns(want, 0, 5))) << T;
        EXPECT_TRUE(same_bits(columns(out, 6, N - 6), columns(want, 6, N - 6))) << T;
        for (const double v : values_of(columns(out, 5, 1))) EXPECT_TRUE(std::isnan(v)) << T;
        // The definition does not look.
        EXPECT_EQ(nan_free.has(NanFreeRows::kUnit, 1),
                  times > 0 && exec.backend() == Backend::kCpu);
        EXPECT_FALSE(nan_free.has(0, NanFreeRows::kUnit));
      }
    }
}

// Activations whose magnitudes span 2^-40 .. 2^40 from one 128 columns to the next, and 2^-24
// within them: neither is lost beside the other, wherever a kernel scales them.
TEST_P(LinearTest, ActivationsMayBeOfAnyMagnitude) {
  for (const int64_t T : {1, 5, 20, 70}) {
    const int64_t K = 1152, N = 48;
    const Tensor x = random_activation({T, K});
    for (int64_t i = 0; i < T * K; ++i) {
      const int64_t k = i % K;
      const int exponent = static_cast<int>(k / 128 * 10) - 40 - (k % 16 == 0 ? 24 : 0);
      if (x.dtype == DType::kF32)
        x.ptr<float>()[i] = std::ldexp(x.ptr<float>()[i], exponent);
      else
        x.ptr<uint16_t>()[i] = f32_to_bf16(std::ldexp(bf16_to_f32(x.ptr<uint16_t>()[i]), exponent));
    }
    // Of every row only one block of 128 columns counts.
    for (int64_t block = 0; block < K / 128; ++block) {
      const Weight w = make.weight(DType::kF8E4M3, {N}, K, sigma(128));
      for (int64_t n = 0; n < N; ++n)
        for (int64_t k = 0; k < K; ++k)
          if (k / 128 != block) w.segments[0].data.ptr<uint8_t>()[n * K + k] = 0;
      const Tensor out = make.empty(DType::kF32, {T, N});
      ops::linear(exec, {.out = out, .x = x, .w = w, .bias = {}});
      const Matrix want = times_transposed(Matrix(x), dense(w));
      Tolerance tol = sum_of(128, DType::kF32, 4);
      tol.abs = std::ldexp(tol.abs, static_cast<int>(block * 10) - 40);
      EXPECT_TRUE(close(out, want.values, tol)) << T << " tokens, block " << block;
    }
  }
}

TEST_P(LinearTest, NoTokensIsNothingToDo) {
  const Weight w = make.weight(DType::kBF16, {4}, 8, 1);
  ops::linear(exec,
              {.out = empty_activation({0, 4}), .x = empty_activation({0, 8}), .w = w, .bias = {}});
  ops::swiglu(exec, {.out = empty_activation({0, 2}), .x = empty_activation({0, 8}), .gate_up = w});
}

TEST_P(LinearTest, WrongArgumentsAreNamed) {
  const auto kind = ErrorKind::kInternal;
  const std::string type = name(activation());
  const Tensor x = random_activation({2, 8}), out = empty_activation({2, 6});
  const Weight narrow = make.weight(DType::kBF16, {4, 2}, 7, 1);
  const auto linear = [&](Tensor to, Tensor from, Weight w, Tensor bias) {
    return error_of([&] { ops::linear(exec, {.out = to, .x = from, .w = w, .bias = bias}); }, kind);
  };
  EXPECT_EQ(linear(out, x, narrow, {}), "linear: w is [6, 7] in 2 segments, expected [N=6, K=8]");
  const Weight good = make.weight(DType::kBF16, {4, 2}, 8, 1);
  EXPECT_EQ(linear(make.i32({2, 6}, std::vector<int32_t>(12)), x, good, {}),
            "linear: out is i32 [2, 6], expected " + type + " or f32 [T=2, N]");
  EXPECT_EQ(linear(out, x, good, make.normal(DType::kF32, {5})),
            "linear: bias is f32 [5], expected f32 [N=6]");
  Weight scales = make.weight(DType::kF8E4M3, {4, 2}, 8, 1, {2, 4});
  scales.segments[0].scales = make.normal(DType::kF32, {1, 2});
  EXPECT_EQ(linear(out, x, scales, {}), "linear: w is f32 [1, 2], expected f32 or f8_e8m0 [2, 2]");
  EXPECT_EQ(error_of([&] { ops::swiglu(exec, {.out = out, .x = x, .gate_up = good}); }, kind),
            "swiglu: gate_up is [6, 8] in 2 segments, expected [12, K=8]");
}

TEST_P(LinearTest, SwigluMatchesTheFormula) {
  for (const Case& c : cases(on_cuda())) {
    if (c.rows.size() == 1) continue;
    const int64_t F = c.rows.front();
    const Weight w = make.weight(c.dtype, {F, F}, c.K, sigma(c.K), c.quant, c.scales);
    const Tensor x = random_activation({c.T, c.K}), out = empty_activation({c.T, F});
    const Matrix both = times_transposed(Matrix(x), dense(w));
    Matrix want(c.T, F);
    for (int64_t t = 0; t < c.T; ++t)
      for (int64_t f = 0; f < F; ++f) want(t, f) = silu(both(t, f)) * both(t, F + f);
    ops::swiglu(exec, {.out = out, .x = x, .gate_up = w});
    // gate and up are rounded to float32 and silu takes three steps there; an error of the gate
    // grows by 1 + |gate| at most: fewer than 16 roundings for |gate| < 8.
    Tolerance tol = sum_of(c.K, activation(), 16);
    tol.rel += 16 * 0x1p-24;
    EXPECT_TRUE(close(out, want.values, tol)) << text(c);
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, LinearTest, testing::ValuesIn(backends_under_test()),
                         backend_name);

}  // namespace
}  // namespace dsr::test
