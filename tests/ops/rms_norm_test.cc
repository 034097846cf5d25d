#include "ops/rms_norm.h"

#include "ops/formulas.h"
#include "support/backends_under_test.h"
#include "support/expect_error.h"

namespace dsr::test {
namespace {

class RmsNormTest : public OpTest {
 protected:
  // 1 / D and the mean round, of which the root takes half; 1 / sqrt is off by 2^-22.9 on a GPU,
  // two products and the store round once each; a sum of D squares in float32 is off by about
  // sqrt(D) 2^-24, of which the root takes half as well.
  Tolerance tolerance(int64_t D) const {
    const double roundings = 6.2 + std::sqrt(static_cast<double>(D)) / 2;
    return {.rel = rounding(activation()) + roundings * 0x1p-24, .abs = 1e-30};
  }
};

constexpr float kEps = 1e-6f;

TEST_P(RmsNormTest, MatchesTheFormula) {
  for (const int64_t T : {1, 3, 129}) {
    for (const int64_t D : {1, 5, 512, 1536, 2048, 7168}) {
      if (T == 129 && D > 600) continue;
      const Tensor x = random_activation({T, D}), weight = make.normal(DType::kF32, {D}, 0.2f, 1);
      const Tensor out = empty_activation({T, D});
      ops::rms_norm(exec, {.out = out, .x = x, .weight = weight, .eps = kEps});
      const Matrix want = rms_normed(Matrix(x), values_of(weight), kEps);
      EXPECT_TRUE(close(out, want.values, tolerance(D))) << "T=" << T << " D=" << D;
    }
  }
}

TEST_P(RmsNormTest, EpsKeepsARowOfZerosAndTinyRowsFinite) {
  const Tensor x = make.fill(activation(), {2, 512}, [n = 0]() mutable {
    return n++ < 512 ? 0.0f : 0x1p-40f;  // squares far below eps
  });
  const Tensor weight = make.normal(DType::kF32, {512}, 0.2f, 1);
  const Tensor out = empty_activation({2, 512});
  ops::rms_norm(exec, {.out = out, .x = x, .weight = weight, .eps = kEps});
  EXPECT_TRUE(close(out, rms_normed(Matrix(x), values_of(weight), kEps).values, tolerance(512)));
}

TEST_P(RmsNormTest, RowsMayBeStridedAndOutMayBeX) {
  const int64_t T = 3, D = 512;
  const Tensor wide = random_activation({T, D + 64 + 7});
  const Tensor x = make.strided(wide, 7, D), weight = make.normal(DType::kF32, {D}, 0.2f, 1);
  const Matrix want = rms_normed(Matrix(x), values_of(weight), kEps);
  const Tensor out = columns(empty_activation({T, D + 9}), 3, D);
  ops::rms_norm(exec, {.out = out, .x = x, .weight = weight, .eps = kEps});
  EXPECT_TRUE(close(out, want.values, tolerance(D)));
  ops::rms_norm(exec, {.out = x, .x = x, .weight = weight, .eps = kEps});
  EXPECT_TRUE(same_bits(x, out));
}

TEST_P(RmsNormTest, AddUpdatesTheResidualAndNormsWhatIsStored) {
  for (const int64_t T : {1, 3, 129}) {
    for (const int64_t D : {3, 2048, 7168}) {
      if (T == 129 && D > 100) continue;
      const Tensor x = random_activation({T, D}), residual = random_activation({T, D});
      const Tensor weight = make.normal(DType::kF32, {D}, 0.2f, 1), out = empty_activation({T, D});
      Matrix sum{Matrix(residual)};
      const std::vector<double> xs = values_of(x);
      for (size_t i = 0; i < xs.size(); ++i)
        sum.values[i] = stored(activation(), sum.values[i] + xs[i]);
      ops::add_rms_norm(exec,
                        {.out = out, .residual = residual, .x = x, .weight = weight, .eps = kEps});
      EXPECT_TRUE(close(residual, sum.values, {}));  // one addition, one rounding
      EXPECT_TRUE(close(out, rms_normed(sum, values_of(weight), kEps).values, tolerance(D)));
    }
  }
}

TEST_P(RmsNormTest, AddIsTheSameInPlaceAndUnfused) {
  const int64_t T = 3, D = 2048;
  const Tensor x = random_activation({T, D}), residual = random_activation({T, D});
  const Tensor weight = make.normal(DType::kF32, {D}, 0.2f, 1);
  const Tensor x2 = make.copy(x), residual2 = make.copy(residual);
  const Tensor out = empty_activation({T, D}), unfused = empty_activation({T, D});
  ops::add_rms_norm(exec,
                    {.out = out, .residual = residual, .x = x, .weight = weight, .eps = kEps});
  ops::add_rms_norm(exec,
                    {.out = x2, .residual = residual2, .x = x2, .weight = weight, .eps = kEps});
  EXPECT_TRUE(same_bits(x2, out));
  EXPECT_TRUE(same_bits(residual2, residual));
  ops::rms_norm(exec, {.out = unfused, .x = residual, .weight = weight, .eps = kEps});
  EXPECT_TRUE(same_bits(out, unfused));
}

TEST_P(RmsNormTest, NoTokensIsNothingToDo) {
  const Tensor none = empty_activation({0, 2048}), weight = make.normal(DType::kF32, {2048});
  ops::rms_norm(exec, {.out = none, .x = none, .weight = weight, .eps = kEps});
  ops::add_rms_norm(exec,
                    {.out = none, .residual = none, .x = none, .weight = weight, .eps = kEps});
}

TEST_P(RmsNormTest, WrongShapesAreNamed) {
  const Tensor x = random_activation({2, 8}), weight = make.normal(DType::kF32, {9});
  const std::string type = name(activation());
  EXPECT_EQ(error_of([&] { ops::rms_norm(exec, {.out = x, .x = x, .weight = weight}); },
                     ErrorKind::kInternal),
            "rms_norm: weight is f32 [9], expected f32 [D=8]");
  const Tensor i = make.i32({2, 8}, std::vector<int32_t>(16));
  EXPECT_EQ(error_of([&] { ops::rms_norm(exec, {.out = x, .x = i, .weight = weight}); },
                     ErrorKind::kInternal),
            "rms_norm: x is i32 [2, 8], expected " + type + " [T, D]");
  const Tensor y = random_activation({3, 8});
  EXPECT_EQ(
      error_of(
          [&] { ops::add_rms_norm(exec, {.out = x, .residual = y, .x = x, .weight = weight}); },
          ErrorKind::kInternal),
      "add_rms_norm: residual is " + type + " [3, 8], expected " + type + " [T=2, D=8]");
}

INSTANTIATE_TEST_SUITE_P(Backends, RmsNormTest, testing::ValuesIn(backends_under_test()),
                         backend_name);

}  // namespace
}  // namespace dsr::test
