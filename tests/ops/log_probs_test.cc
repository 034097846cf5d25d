#include "ops/log_probs.h"

#include <algorithm>
#include <cmath>

#include "ops/formulas.h"
#include "support/backends_under_test.h"
#include "support/expect_error.h"

namespace dsr::test {
namespace {

struct LogProbs {
  Tensor log_probs, top_ids, top_log_probs;
};

class LogProbsTest : public OpTest {
 protected:
  LogProbs run(const Tensor& logits, const std::vector<int32_t>& tokens,
               const std::vector<int32_t>& rows, int64_t K) {
    const auto L = static_cast<int64_t>(rows.size());
    // The outputs are columns of something wider: what is beside them stays as it is.
    const LogProbs out = {make.empty(DType::kF32, {L}),
                          columns(make.empty(DType::kI32, {L, K + 3}), 0, K),
                          columns(make.empty(DType::kF32, {L, K + 3}), 0, K)};
    ops::log_probs(exec, {.log_probs = out.log_probs,
                          .top_ids = out.top_ids,
                          .top_log_probs = out.top_log_probs,
                          .logits = logits,
                          .token_ids = make.i32({static_cast<int64_t>(tokens.size())}, tokens),
                          .rows = make.i32({L}, rows)});
    return out;
  }
};

// In double, without the shift by the maximum: log p = logit - log(sum of exp(logit)).
double formula(const Tensor& logits, int64_t row, int64_t id) {
  double sum = 0;
  for (int64_t i = 0; i < logits.shape[1]; ++i)
    sum += std::exp(static_cast<double>(*logits.ptr<float>(row, i)));
  return static_cast<double>(*logits.ptr<float>(row, id)) - std::log(sum);
}

// Rounded once to float32; the sums differ by far less.
constexpr double kRounding = 0x1.01p-24;

TEST_P(LogProbsTest, AreTheLogarithmOfTheSoftmax) {
  for (const int64_t V : {1, 7, 100, 129280}) {
    const Tensor logits = make.normal(DType::kF32, {4, V}, 4);
    std::vector<int32_t> tokens;
    for (int i = 0; i < 4; ++i) tokens.push_back(make.below(V));
    const int64_t K = std::min<int64_t>(V, 20);
    const LogProbs got = run(logits, tokens, {2, 0, 3}, K);
    for (int64_t l = 0; l < 3; ++l) {
      const int64_t row = std::array{2, 0, 3}[static_cast<size_t>(l)];
      const double want = formula(logits, row, tokens[static_cast<size_t>(row)]);
      EXPECT_NEAR(*got.log_probs.ptr<float>(l), want, kRounding * std::abs(want) + 1e-12);

      std::vector<std::pair<float, int32_t>> order;  // (-logit, id)
      for (int32_t id = 0; id < V; ++id) order.emplace_back(-*logits.ptr<float>(row, id), id);
      std::sort(order.begin(), order.end());
      for (int64_t k = 0; k < K; ++k) {
        const int32_t id = order[static_cast<size_t>(k)].second;
        EXPECT_EQ(*got.top_ids.ptr<int32_t>(l, k), id);
        const double likely = formula(logits, row, id);
        EXPECT_NEAR(*got.top_log_probs.ptr<float>(l, k), likely,
                    kRounding * std::abs(likely) + 1e-12);
      }
    }
  }
}

TEST_P(LogProbsTest, TheLowerIdOfEqualsAndSumsToOne) {
  const Tensor logits = make.f32({1, 5}, {2, 3, 3, 2, 3});
  const LogProbs got = run(logits, {4}, {0}, 5);
  EXPECT_EQ(std::vector<int32_t>(got.top_ids.ptr<int32_t>(), got.top_ids.ptr<int32_t>() + 5),
            (std::vector<int32_t>{1, 2, 4, 0, 3}));
  double sum = 0;
  for (int64_t k = 0; k < 5; ++k)
    sum += std::exp(static_cast<double>(*got.top_log_probs.ptr<float>(0, k)));
  EXPECT_NEAR(sum, 1, 5 * 0x1p-23);
  EXPECT_EQ(*got.log_probs.ptr<float>(), *got.top_log_probs.ptr<float>());
}

// exp(3e38) is no number, and neither is the sum of a thousand of them.
TEST_P(LogProbsTest, LargeLogitsDoNotOverflow) {
  const LogProbs got = run(make.f32({1, 3}, {3e38f, 3e38f, -3e38f}), {2}, {0}, 2);
  EXPECT_NEAR(*got.top_log_probs.ptr<float>(), -std::log(2.0), 1e-7);
  EXPECT_EQ(*got.log_probs.ptr<float>(), -std::numeric_limits<float>::infinity());
}

TEST_P(LogProbsTest, ARowThatIsNotFiniteHasNone) {
  const Tensor logits = make.f32({2, 3}, {0, std::nanf(""), 0, 1, 1, 1});
  const LogProbs got = run(logits, {-1, 1}, {0, 1}, 2);
  EXPECT_EQ(*got.log_probs.ptr<float>(0), 0);
  for (int64_t k = 0; k < 2; ++k) {
    EXPECT_EQ(*got.top_ids.ptr<int32_t>(0, k), -1);
    EXPECT_EQ(*got.top_log_probs.ptr<float>(0, k), 0);
    EXPECT_EQ(*got.top_ids.ptr<int32_t>(1, k), k);
  }
}

TEST_P(LogProbsTest, NoRowsNoTopAndWrongArguments) {
  const Tensor logits = make.normal(DType::kF32, {2, 9});
  run(logits, {1, 2}, {}, 3);
  EXPECT_LT(*run(logits, {1, 2}, {1}, 0).log_probs.ptr<float>(), 0);
  EXPECT_EQ(error_of(
                [&] {
                  run(logits, {1, 2, 3}, {1}, 0);
                },
                ErrorKind::kInternal),
            "log_probs: token_ids is i32 [3], expected i32 [R=2]");
  if (!on_cuda()) {  // a kernel cannot refuse
    const std::string outside = error_of(
        [&] {
          run(logits, {1, 2}, {2}, 0);
        },
        ErrorKind::kInternal);
    EXPECT_NE(outside.find("with 2"), std::string::npos) << outside;
  }
  EXPECT_NE(error_of(
                [&] {
                  run(logits, {1, 2}, {1}, 10);
                },
                ErrorKind::kInternal)
                .find("K.value() <= V.value()"),
            std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Backends, LogProbsTest, testing::ValuesIn(backends_under_test()),
                         backend_name);

}  // namespace
}  // namespace dsr::test
