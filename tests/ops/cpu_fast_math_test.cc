// What fast math of the cpu backend does to a linear layer.
#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/formulas.h"
#include "ops/linear.h"
#include "support/backends_under_test.h"
#include "support/expect_error.h"

namespace dsr::test {
namespace {

Exec fast_exec(CpuLevel level) {
  return Exec(Backend::kCpu, false, {.threads = 3, .level = level, .math = CpuMath::kFast});
}

bool can_be_fast(CpuLevel level) {
  return level < CpuLevel::kAvx512 ? level <= best_cpu_level() : has_bf16_dots();
}

// Weights of e4m3 and bf16 lose nothing; activations are rounded to bf16, by 2^-8 of themselves at
// most: errors of random signs, uniform within 2^-8 |w x|, add up to a deviation of
// 2^-8 / sqrt(3) sqrt(sum (w x)^2). Five times that; what float32 errs is a thousandth of it.
TEST(CpuFastMath, LinearErrsByTheRoundingOfActivations) {
  struct Case {
    int64_t T;
    std::vector<int64_t> rows;
    int64_t K;
    DType dtype;
  };
  TensorMaker make{20260101};
  for (const CpuLevel level : kCpuLevels) {
    if (!can_be_fast(level)) continue;
    Exec exec = fast_exec(level);
    give_scratch(exec, 1 << 20);
    for (const Case& c :
         {Case{13, {130, 20}, 576, DType::kF8E4M3}, Case{129, {70, 64, 1}, 200, DType::kF8E4M3},
          Case{16, {48}, 10944, DType::kF8E4M3}, Case{70, {96, 48}, 50, DType::kBF16},
          Case{80, {33}, 2048, DType::kBF16}}) {
      const float sigma = 1 / std::sqrt(static_cast<float>(c.K));
      const Weight w = make.weight(c.dtype, c.rows, c.K, sigma, {128, 128}, DType::kF32);
      const Tensor x = make.normal(DType::kF32, {c.T, c.K});
      const Matrix want = times_transposed(Matrix(x), dense(w));
      const Tensor out = make.empty(DType::kF32, {c.T, w.rows()});
      ops::linear(exec, {.out = out, .x = x, .w = w, .bias = {}});
      const Matrix xs(x), ws = dense(w);
      double largest = 0;  // error, in deviations
      for (int64_t t = 0; t < c.T; ++t)
        for (int64_t n = 0; n < w.rows(); ++n) {
          double squares = 0;
          for (int64_t k = 0; k < c.K; ++k) squares += std::pow(ws(n, k) * xs(t, k), 2);
          const double error = static_cast<double>(out.ptr<float>(t)[n]) - want(t, n);
          largest = std::max(largest, std::fabs(error) / (0x1p-8 * std::sqrt(squares / 3)));
        }
      EXPECT_LT(largest, 5) << "T=" << c.T << " K=" << c.K << " " << name(level);
      EXPECT_GT(largest, 1) << "as exact as float32: bf16 was not used";
    }
  }
}

TEST(CpuFastMath, NeedsItsInstructions) {
  if (best_cpu_level() < CpuLevel::kAvx512 || has_bf16_dots())
    GTEST_SKIP() << "this machine has avx512_bf16, or no AVX-512 at all";
  EXPECT_EQ(error_of([] { fast_exec(CpuLevel::kAvx512); }, ErrorKind::kDevice),
            "cpu math fast: this machine has no bf16 dot products (avx512_bf16)\n"
            "  try: --cpu-level avx2, which emulates them, slowly");
}

TEST(CpuFastMath, ANanAmongWeightsStaysInItsRow) {
  TensorMaker make{20260102};
  for (const CpuLevel level : kCpuLevels) {
    if (!can_be_fast(level)) continue;
    Exec exec = fast_exec(level);
    give_scratch(exec, 1 << 20);
    const int64_t T = 40, K = 1216, N = 48;
    const Weight w = make.weight(DType::kF8E4M3, {N}, K, 0.03f);
    const Tensor x = make.normal(DType::kF32, {T, K});
    const Tensor want = make.empty(DType::kF32, {T, N}), out = make.empty(DType::kF32, {T, N});
    ops::linear(exec, {.out = want, .x = x, .w = w, .bias = {}});
    w.segments[0].data.ptr<uint8_t>(5)[1201] = 0xff;
    ops::linear(exec, {.out = out, .x = x, .w = w, .bias = {}});
    for (int64_t t = 0; t < T; ++t)
      for (int64_t n = 0; n < N; ++n)
        EXPECT_TRUE(n == 5 ? std::isnan(out.ptr<float>(t)[n])
                           : out.ptr<float>(t)[n] == want.ptr<float>(t)[n])
            << "token " << t << " row " << n << " " << name(level);
  }
}

}  // namespace
}  // namespace dsr::test
