// What --debug-nan says of one tensor.
#include "device/finite_check.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/backends_under_test.h"
#include "support/expect_error.h"

namespace dsr::test {
namespace {

constexpr float kInf = INFINITY;

class FiniteCheckTest : public testing::Test {
 protected:
  FiniteCheckTest() {
    check_.enter("model.layers", 3);
    check_.begin(exec_, "linear");
  }
  std::string error(const Tensor& t) {
    return error_of([&] { check_.look(exec_, "out", t); }, ErrorKind::kNonFinite);
  }

  Exec exec_{Backend::kReference};
  TensorMaker make_{1};
  FiniteCheck check_;
};

TEST_F(FiniteCheckTest, NamesTheFirstInRowMajorOrder) {
  const Tensor t = make_.f32({2, 3}, {1, 2, 3, 4, -kInf, NAN});
  EXPECT_EQ(error(t),
            "model.layers.3, op 1, linear: out[1, 1] is -inf (f32 [2, 3], 2 of 6 numbers are not "
            "finite; all that was written before is)");
}

TEST_F(FiniteCheckTest, CountsTheOpsOfAPlace) {
  check_.begin(exec_, "rms_norm");
  EXPECT_EQ(error(make_.f32({1}, {NAN})).find("model.layers.3, op 2, rms_norm: out[0] is nan"), 0u);
  check_.enter("lm_head", -1);
  check_.begin(exec_, "linear");
  EXPECT_EQ(error(make_.f32({1}, {kInf})).find("lm_head, op 1, linear: out[0] is inf"), 0u);
}

TEST_F(FiniteCheckTest, FiniteNumbersOfAnySizePass) {
  const float largest = std::numeric_limits<float>::max();
  check_.look(exec_, "out", make_.f32({1, 2, 2}, {largest, -largest, 0, 0x1p-149f}));
  check_.look(exec_, "out", make_.f32({0, 5}, {}));
}

// Between the rows of a view lies what belongs to somebody else.
TEST_F(FiniteCheckTest, OnlyTheViewIsLookedAt) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
    const Tensor wide = make_.empty(type, {3, 8});  // NaN
    const Tensor view = reshape(columns(wide, 2, 4), {3, 2, 2});
    for (int64_t row = 0; row < 3; ++row) {
      const float values[4] = {1, 2, 3, 4};
      from_f32(type, values, view.at(row), 4);
    }
    check_.look(exec_, "out", view);
    const float inf = kInf;
    from_f32(type, &inf, view.at(2, 1, 0), 1);
    EXPECT_EQ(error(view), str("model.layers.3, op 1, linear: out[2, 1, 0] is inf (", name(type),
                               " [3, 2, 2], 1 of 12 numbers are not finite; all that was written "
                               "before is)"));
  }
}

}  // namespace
}  // namespace dsr::test
