#include "tensor/tensor.h"

#include <gtest/gtest.h>

#include <ctime>

#include <numeric>
#include <vector>

#include "support/expect_error.h"
#include "tensor/expect.h"

namespace dsr {
namespace {

std::string bug_of(const std::function<void()>& call) {
  return test::error_of(call, ErrorKind::kInternal);
}

class TensorTest : public ::testing::Test {
 protected:
  TensorTest() : values_(24) { std::iota(values_.begin(), values_.end(), 0.0f); }
  Tensor tensor(const Shape& shape) const { return Tensor::of(values_.data(), DType::kF32, shape); }
  std::vector<float> values_;
};

TEST_F(TensorTest, AddressesElementsInRowMajorOrder) {
  const Tensor t = tensor({2, 3, 4});
  EXPECT_EQ(*t.ptr<float>(1, 2), 20);
  EXPECT_EQ(*t.ptr<float>(1, 2, 3), 23);
  EXPECT_EQ(t.size_bytes(), 96);
  EXPECT_TRUE(t.contiguous());
  EXPECT_EQ(t.text(), "f32 [2, 3, 4]");
  EXPECT_EQ(Shape({}).elements(), 1);
  EXPECT_EQ(Shape({3, 0}).elements(), 0);
}

TEST_F(TensorTest, RowsAndColumnsAreViews) {
  const Tensor t = tensor({4, 6});
  const Tensor r = rows(t, 1, 2);
  EXPECT_EQ(r.shape, Shape({2, 6}));
  EXPECT_EQ(*r.ptr<float>(1), 12);
  EXPECT_TRUE(r.contiguous());
  const Tensor c = columns(t, 2, 3);
  EXPECT_EQ(c.shape, Shape({4, 3}));
  EXPECT_EQ(*c.ptr<float>(3), 20);
  EXPECT_EQ(c.ptr<float>(3)[2], 22);
  EXPECT_FALSE(c.contiguous());
  EXPECT_TRUE(rows(c, 1, 1).contiguous());
  EXPECT_EQ(*columns(tensor({2, 3, 4}), 1, 2).ptr<float>(1, 2), 21);
  EXPECT_EQ(rows(t, 4, 0).shape, Shape({0, 6}));
  EXPECT_EQ(columns(t, 6, 0).shape, Shape({4, 0}));
}

TEST_F(TensorTest, ViewsOutsideAreBugs) {
  const Tensor t = tensor({4, 6});
  for (const auto& [first, count] :
       std::vector<std::pair<int64_t, int64_t>>{{-1, 1}, {0, 7}, {5, 2}, {0, -1}}) {
    EXPECT_NE(bug_of([&, f = first, c = count] { rows(t, f, c); }).find("f32 [4, 6]"),
              std::string::npos);
    EXPECT_NE(bug_of([&, f = first, c = count] { columns(t, f, c); }).find("f32 [4, 6]"),
              std::string::npos);
  }
  bug_of([&] { rows(tensor({}), 0, 0); });
  bug_of([&] { Shape({1, -1}); });
  bug_of([&] { Shape({1, 1, 1, 1, 1}); });
}

TEST_F(TensorTest, ReshapeKeepsTheElements) {
  const Tensor t = reshape(tensor({4, 6}), {2, 2, 6});
  EXPECT_EQ(*t.ptr<float>(1, 1), 18);
  EXPECT_EQ(reshape(tensor({24}), {4, 6}).strides[0], 6);
  const Tensor heads = reshape(columns(tensor({4, 6}), 2, 4), {4, 2, 2});
  EXPECT_EQ(*heads.ptr<float>(3, 1), 22);
  EXPECT_EQ(heads.ptr<float>(3, 1)[1], 23);
  bug_of([&] { reshape(tensor({4, 6}), {5, 5}); });
  bug_of([&] { reshape(columns(tensor({4, 6}), 2, 4), {2, 2, 4}); });
  bug_of([&] { reshape(columns(tensor({4, 6}), 2, 4), {16}); });
}

TEST_F(TensorTest, ADryRunHasShapesAndNoAddresses) {
  const Tensor t = Tensor::of(nullptr, DType::kBF16, {4, 6});
  EXPECT_EQ(rows(t, 2, 2).data, nullptr);
  EXPECT_EQ(columns(t, 2, 4).data, nullptr);
  EXPECT_EQ(reshape(columns(t, 2, 4), {4, 2, 2}).data, nullptr);
  EXPECT_EQ(t.at(3), nullptr);
  EXPECT_EQ(t.size_bytes(), 48);
}

// --- expect
// ---------------------------------------------------------------------------------------

TEST_F(TensorTest, ExpectBindsALetterAndComparesItAfterwards) {
  Dim T{"T"}, D{"D"};
  expect("op", "x", tensor({4, 6}), DType::kF32, {T, D});
  EXPECT_EQ(T.value(), 4);
  EXPECT_EQ(D.value(), 6);
  expect("op", "y", tensor({6}), DType::kF32, {D});
  EXPECT_EQ(bug_of([&] {
              expect("op", "z", tensor({6, 4}), DType::kF32, {T, D});
            }),
            "op: z is f32 [6, 4], expected f32 [T=4, D=6]");
  EXPECT_EQ(bug_of([&] { Dim("N").value(); }).find("internal error at "), 0u);
}

TEST_F(TensorTest, ExpectSaysWhatWasFoundAndWhatWasExpected) {
  Dim T{"T"}, D{"D"};
  EXPECT_EQ(bug_of([&] {
              expect("add", "x", tensor({4, 6}), DType::kBF16, {T, D});
            }),
            "add: x is f32 [4, 6], expected bf16 [T, D]");
  Dim rows{"N"};
  EXPECT_EQ(bug_of([&] {
              expect("add", "x", tensor({4, 6}), DType::kF32, {rows, 2048});
            }),
            "add: x is f32 [4, 6], expected f32 [N, 2048]");
  EXPECT_EQ(bug_of([&] {
              expect("add", "x", tensor({4, 6}), {DType::kBF16, DType::kF16}, {4, 6});
            }),
            "add: x is f32 [4, 6], expected bf16 or f16 [4, 6]");
  Dim A{"A"};
  EXPECT_EQ(bug_of([&] {
              expect("add", "x", tensor({4, 6}), DType::kF32, {A});
            }),
            "add: x is f32 [4, 6], expected f32 [A]");
  EXPECT_EQ(bug_of([&] {
              expect("add", "x", tensor({24}), DType::kF32, {4, 6, 1});
            }),
            "add: x is f32 [24], expected f32 [4, 6, 1]");
}

// Ops check their arguments in every step: text for an error that is not there took a quarter of
// it.
TEST_F(TensorTest, ExpectTakesNoTimeWhereAllIsWell) {
#ifdef DSR_SANITIZED
  GTEST_SKIP() << "not with sanitizers";
#endif
  const Tensor t = tensor({4, 6});
  const auto start = std::clock();
  for (int i = 0; i < 100'000; ++i) {
    Dim T{"T"}, D{"D"};
    expect("op", "x", t, DType::kF32, {T, D});
    expect("op", "y", t, DType::kF32, {T, 6});
  }
  const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  EXPECT_LT(seconds, 0.05) << "0.25 us each; it takes a twentieth of that";
}

TEST_F(TensorTest, OneLetterTwiceMustBeEqual) {
  Dim N{"N"};
  EXPECT_EQ(bug_of([&] {
              expect("op", "square", tensor({4, 6}), DType::kF32, {N, N});
            }),
            "op: square is f32 [4, 6], expected f32 [N, N=4]");
}

TEST_F(TensorTest, ExpectWantsAContiguousLastDimension) {
  Tensor t = tensor({4, 3});
  t.strides = {6, 2, 0, 0};
  Dim T{"T"}, D{"D"};
  EXPECT_EQ(bug_of([&] {
              expect("op", "x", t, DType::kF32, {T, D});
            }),
            "op: x is f32 [4, 3], expected f32 [T, D]");
  expect("op", "view", columns(tensor({4, 6}), 1, 2), DType::kF32, {4, 2});
}

}  // namespace
}  // namespace dsr
