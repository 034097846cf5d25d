// embedding and gather_rows: rows that are copied; copy: bytes that are.
#include "ops/copy.h"
#include "ops/embedding.h"
#include "ops/formulas.h"
#include "ops/gather_rows.h"
#include "support/backends_under_test.h"
#include "support/expect_error.h"

namespace dsr::test {
namespace {

class RowsTest : public OpTest {
 protected:
  // Rows `ids` of t, as the activation type stores them.
  std::vector<double> picked(const Tensor& t, const std::vector<int32_t>& ids) const {
    const Matrix all(t);
    std::vector<double> out;
    for (const int32_t id : ids)
      for (int64_t d = 0; d < all.columns; ++d) out.push_back(stored(activation(), all(id, d)));
    return out;
  }
};

TEST_P(RowsTest, EmbeddingIsALookUp) {
  const std::vector<int32_t> ids = {7, 0, 99, 7};
  for (const DType type : {DType::kBF16, DType::kF16, DType::kF32}) {
    for (const int64_t D : {1, 33, 2048}) {
      const Tensor table = make.normal(type, {100, D}), out = empty_activation({4, D});
      ops::embedding(exec, {.out = out, .token_ids = make.i32({4}, ids), .table = table});
      EXPECT_TRUE(close(out, picked(table, ids), {})) << name(type) << " D=" << D;
    }
  }
}

// Rows of the step before, in any order, beside ids that are known; one drew nothing.
TEST_P(RowsTest, EmbeddingLooksUpWhatWasDrawn) {
  const Tensor table = make.normal(DType::kBF16, {100, 64}), out = empty_activation({5, 64});
  const Tensor drawn = make.i32({4}, {99, -1, 7, 5});
  ops::embedding(exec, {.out = out,
                        .token_ids = make.i32({5}, {-4, -1, 12, -3, -2}),
                        .table = table,
                        .drawn = drawn});
  EXPECT_TRUE(close(out, picked(table, {5, 99, 12, 7, 0}), {}));
}

TEST_P(RowsTest, EmbeddingRefusesIdsOutsideTheTable) {
  if (on_cuda()) GTEST_SKIP() << "a kernel cannot refuse";
  const Tensor table = make.normal(DType::kBF16, {10, 4}), out = empty_activation({1, 4});
  for (const int32_t id : {-1, 10}) {
    const std::string error = error_of(
        [&] {
          ops::embedding(exec, {.out = out, .token_ids = make.i32({1}, {id}), .table = table});
        },
        ErrorKind::kInternal);
    EXPECT_NE(error.find(str("with ", id)), std::string::npos) << error;
  }
  const Tensor drawn = make.i32({2}, {0, 10});
  const auto with_drawn = [&](int32_t id) {
    return error_of(
        [&] {
          ops::embedding(
              exec, {.out = out, .token_ids = make.i32({1}, {id}), .table = table, .drawn = drawn});
        },
        ErrorKind::kInternal);
  };
  EXPECT_NE(with_drawn(-2).find("with 10"), std::string::npos) << with_drawn(-2);
  EXPECT_NE(with_drawn(-3).find("with -3"), std::string::npos) << with_drawn(-3);
}

TEST_P(RowsTest, GatherPicksRows) {
  const Tensor x = make.strided(random_activation({129, 71}), 3, 64);
  for (const std::vector<int32_t>& ids :
       {std::vector<int32_t>{}, {128}, {0, 0, 5}, {128, 64, 1, 0}}) {
    const auto R = static_cast<int64_t>(ids.size());
    const Tensor out = empty_activation({R, 64});
    ops::gather_rows(exec, {.out = out, .x = x, .row_ids = make.i32({R}, ids)});
    EXPECT_TRUE(close(out, picked(x, ids), {}));
  }
}

TEST_P(RowsTest, GatherRefusesRowsOutsideX) {
  if (on_cuda()) GTEST_SKIP() << "a kernel cannot refuse";
  const Tensor x = random_activation({3, 4}), out = empty_activation({1, 4});
  for (const int32_t id : {-1, 3}) {
    const std::string error = error_of(
        [&] { ops::gather_rows(exec, {.out = out, .x = x, .row_ids = make.i32({1}, {id})}); },
        ErrorKind::kInternal);
    EXPECT_NE(error.find(str("with ", id)), std::string::npos) << error;
  }
}

// Any size at any address, and no byte beside it.
TEST_P(RowsTest, CopyMovesBytes) {
  constexpr int64_t kAround = 32;
  for (const int64_t n : {1, 8, 15, 16, 40, 512, 4096, 100000, 1 << 20})
    for (const int64_t offset : {0, 16, 3}) {
      const Tensor x = make.empty(DType::kU8, {n + kAround});
      const Tensor out = make.empty(DType::kU8, {n + kAround});
      std::vector<uint8_t> want(static_cast<size_t>(n + kAround), 0xa5);
      std::memcpy(out.data, want.data(), want.size());
      for (int64_t i = 0; i < n; ++i) {
        *x.ptr<uint8_t>(16 + i) = static_cast<uint8_t>(i * 7 + i / 251);
        want[static_cast<size_t>(offset + i)] = *x.ptr<uint8_t>(16 + i);
      }
      ops::copy(exec, {.out = rows(out, offset, n), .x = rows(x, 16, n)});
      EXPECT_EQ(std::memcmp(out.data, want.data(), want.size()), 0) << n << " at " << offset;
    }
}

TEST_P(RowsTest, NoTokensIsNothingToDo) {
  const Tensor none = empty_activation({0, 4}), ids = make.i32({0}, {});
  ops::embedding(exec, {.out = none, .token_ids = ids, .table = make.normal(DType::kBF16, {2, 4})});
}

TEST_P(RowsTest, WrongArgumentsAreNamed) {
  const auto kind = ErrorKind::kInternal;
  const std::string type = name(activation());
  const Tensor out = empty_activation({2, 4}), ids = make.i32({2}, {0, 0});
  EXPECT_EQ(error_of(
                [&] {
                  ops::embedding(
                      exec,
                      {.out = out, .token_ids = ids, .table = make.normal(DType::kF8E4M3, {2, 4})});
                },
                kind),
            "embedding: table is f8_e4m3 [2, 4], expected bf16 or f16 or f32 [V, D=4]");
  EXPECT_EQ(
      error_of(
          [&] {
            ops::gather_rows(exec, {.out = out, .x = random_activation({3, 5}), .row_ids = ids});
          },
          kind),
      "gather_rows: out is " + type + " [2, 4], expected " + type + " [R, D=5]");
}

INSTANTIATE_TEST_SUITE_P(Backends, RowsTest, testing::ValuesIn(backends_under_test()),
                         backend_name);

}  // namespace
}  // namespace dsr::test
