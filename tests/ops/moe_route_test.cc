#include "ops/moe.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/formulas.h"
#include "support/backends_under_test.h"
#include "support/expect_error.h"

namespace dsr::test {
namespace {

struct Gate {
  const char* name;
  int64_t E, K;
  ScoringFunc func;
  GroupScore group;
  int64_t n_group, topk_group;
  bool norm;
  float factor;
  bool bias;
};

const Gate kGates[] = {
    {"V3", 256, 8, ScoringFunc::kSigmoid, GroupScore::kTop2Sum, 8, 4, true, 2.5f, true},
    {"V2", 160, 6, ScoringFunc::kSoftmax, GroupScore::kMax, 8, 3, false, 16.0f, false},
    {"V2-Lite", 64, 6, ScoringFunc::kSoftmax, GroupScore::kMax, 1, 1, false, 1.0f, false},
    {"normed softmax", 64, 6, ScoringFunc::kSoftmax, GroupScore::kMax, 1, 1, true, 1.0f, false},
    {"all of them", 8, 8, ScoringFunc::kSigmoid, GroupScore::kTop2Sum, 2, 2, true, 1.0f, true},
    {"all of a group", 8, 4, ScoringFunc::kSigmoid, GroupScore::kTop2Sum, 2, 1, true, 1.0f, true},
    {"one each", 4, 2, ScoringFunc::kSigmoid, GroupScore::kTop2Sum, 4, 2, false, 1.0f, true},
};

struct Route {
  std::vector<int32_t> ids;
  std::vector<double> weights;
};

std::vector<double> scores_of(const std::vector<double>& logits, ScoringFunc func) {
  std::vector<double> s;
  double sum = 0;
  for (const double l : logits) sum += std::exp(l);
  for (const double l : logits)
    s.push_back(func == ScoringFunc::kSigmoid ? 1 / (1 + std::exp(-l)) : std::exp(l) / sum);
  return s;
}

// The position of the largest value that is not taken yet; the first of equals.
size_t best_of(const std::vector<double>& values, const std::vector<bool>& taken) {
  size_t best = values.size();
  for (size_t i = 0; i < values.size(); ++i)
    if (!taken[i] && (best == values.size() || values[i] > values[best])) best = i;
  return best;
}

std::vector<bool> groups_kept(const std::vector<double>& c, const Gate& g) {
  const auto per = static_cast<size_t>(g.E / g.n_group);
  std::vector<double> scores;
  for (size_t first = 0; first < c.size(); first += per) {
    std::vector<double> group(c.begin() + static_cast<int64_t>(first),
                              c.begin() + static_cast<int64_t>(first + per));
    std::sort(group.rbegin(), group.rend());
    scores.push_back(g.group == GroupScore::kTop2Sum && per > 1 ? group[0] + group[1] : group[0]);
  }
  std::vector<bool> kept(scores.size(), false);
  for (int64_t i = 0; i < g.topk_group; ++i) kept[best_of(scores, kept)] = true;
  return kept;
}

Route route(const std::vector<double>& logits, const std::vector<double>& bias, const Gate& g) {
  const std::vector<double> s = scores_of(logits, g.func);
  std::vector<double> c = s;
  for (size_t e = 0; e < bias.size(); ++e) c[e] += bias[e];
  const std::vector<bool> kept = groups_kept(c, g);
  std::vector<bool> taken;  // or out
  for (size_t e = 0; e < c.size(); ++e)
    taken.push_back(!kept[e / static_cast<size_t>(g.E / g.n_group)]);
  Route out;
  for (int64_t k = 0; k < g.K; ++k) {
    out.ids.push_back(static_cast<int32_t>(best_of(c, taken)));
    taken[static_cast<size_t>(out.ids.back())] = true;
  }
  std::sort(out.ids.begin(), out.ids.end());
  double sum = 1e-20;
  for (const int32_t e : out.ids) sum += s[static_cast<size_t>(e)];
  for (const int32_t e : out.ids)
    out.weights.push_back(s[static_cast<size_t>(e)] / (g.norm ? sum : 1) *
                          static_cast<double>(g.factor));
  return out;
}

class MoeRouteTest : public OpTest {
 protected:
  // Runs the op; ids and weights [T, K].
  std::pair<Tensor, Tensor> run(const Gate& g, const Tensor& logits, const Tensor& bias) {
    const Shape shape = {logits.shape[0], g.K};
    const Tensor ids = make.empty(DType::kI32, shape), weights = make.empty(DType::kF32, shape);
    ops::moe_route(exec, {.expert_ids = ids,
                          .expert_weights = weights,
                          .logits = logits,
                          .correction_bias = bias,
                          .scoring_func = g.func,
                          .group_score = g.group,
                          .n_group = g.n_group,
                          .topk_group = g.topk_group,
                          .norm_topk_prob = g.norm,
                          .routed_scaling_factor = g.factor});
    return {ids, weights};
  }

  // Scores in float32: exp of a difference below 16 that was rounded (2^-24 * 16, relative), and
  // a handful of roundings.
  static constexpr Tolerance kTolerance{.rel = 24 * 0x1p-24, .abs = 1e-30};

  void expect_formula(const Gate& g, const Tensor& logits, const Tensor& bias) {
    const auto [ids, weights] = run(g, logits, bias);
    const Matrix l(logits);
    std::vector<double> want_ids, want_weights;
    for (int64_t t = 0; t < l.rows; ++t) {
      const Route r = route(values_of(rows(logits, t, 1)),
                            bias.rank() > 0 ? values_of(bias) : std::vector<double>{}, g);
      want_ids.insert(want_ids.end(), r.ids.begin(), r.ids.end());
      want_weights.insert(want_weights.end(), r.weights.begin(), r.weights.end());
    }
    EXPECT_TRUE(close(ids, want_ids, {})) << g.name;
    EXPECT_TRUE(close(weights, want_weights, kTolerance)) << g.name;
  }
};

TEST_P(MoeRouteTest, MatchesTheFormula) {
  for (const Gate& g : kGates)
    for (const int64_t T : {1, 3, 129})
      expect_formula(g, make.normal(DType::kF32, {T, g.E}, 2),
                     g.bias ? make.normal(DType::kF32, {g.E}, 0.1f) : Tensor{});
}

// With a bias below all scores every c is negative: a group that is out must lose to it all the
// same, which a mask of zeros would get wrong.
TEST_P(MoeRouteTest, GroupsThatAreOutLoseToNegativeScores) {
  for (const Gate& g : kGates)
    if (g.bias)
      expect_formula(g, make.normal(DType::kF32, {33, g.E}, 2),
                     make.normal(DType::kF32, {g.E}, 0.1f, -3));
}

TEST_P(MoeRouteTest, TiesGoToTheLowerIndex) {
  for (const Gate& g : kGates) {
    const auto [ids, weights] =
        run(g, make.fill(DType::kF32, {1, g.E}, [] { return 0.5f; }),
            g.bias ? make.fill(DType::kF32, {g.E}, [] { return 1.0f; }) : Tensor{});
    std::vector<double> first(static_cast<size_t>(g.K));
    for (size_t k = 0; k < first.size(); ++k) first[k] = static_cast<double>(k);
    EXPECT_TRUE(close(ids, first, {})) << g.name;
  }
}

TEST_P(MoeRouteTest, TiesBehindTheBestGoToTheLowerIndex) {
  const Gate g{"two groups of 4",
               16,
               3,
               ScoringFunc::kSigmoid,
               GroupScore::kTop2Sum,
               4,
               2,
               false,
               1.0f,
               true};
  std::vector<float> logits(16, 0.0f);
  logits[13] = 1;  // group 3 is the best; group 0 is the first of the others
  const auto [ids, weights] = run(g, make.f32({1, 16}, logits), Tensor{});
  EXPECT_TRUE(close(ids, std::vector<double>{0, 1, 13}, {}));
  EXPECT_TRUE(close(weights, {0.5, 0.5, 1 / (1 + std::exp(-1.0))}, kTolerance));
}

// Scores decide, not logits: a softmax gives 0 to all that are far below the largest.
TEST_P(MoeRouteTest, EqualScoresOfDifferentLogitsGoToTheLowerIndex) {
  const Gate g{"softmax", 64, 4, ScoringFunc::kSoftmax, GroupScore::kMax, 1, 1, false, 1, false};
  std::vector<float> logits(64);
  for (size_t e = 0; e < logits.size(); ++e) logits[e] = -300 + static_cast<float>(e);
  logits[40] = 0;
  const auto [ids, weights] = run(g, make.f32({1, 64}, logits), Tensor{});
  EXPECT_TRUE(close(ids, std::vector<double>{0, 1, 2, 40}, {}));
  EXPECT_TRUE(close(weights, {0, 0, 0, 1}, kTolerance));
}

TEST_P(MoeRouteTest, ANanAmongTheLogitsOfASoftmaxIsInAllWeights) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const Gate& g : kGates) {
    if (g.func != ScoringFunc::kSoftmax) continue;
    for (const float bad : {static_cast<float>(nan), -static_cast<float>(nan), INFINITY}) {
      for (const size_t at : {size_t{0}, static_cast<size_t>(g.E) - 1}) {
        std::vector<float> logits(static_cast<size_t>(g.E), 0.5f);
        logits[at] = bad;
        const auto [ids, weights] = run(g, make.f32({1, g.E}, logits), Tensor{});
        EXPECT_TRUE(close(weights, std::vector<double>(static_cast<size_t>(g.K), nan), {}))
            << g.name << " " << bad << " at " << at;
      }
    }
  }
}

TEST_P(MoeRouteTest, TheBiasChoosesButDoesNotWeigh) {
  const Gate g{"bias", 4, 1, ScoringFunc::kSigmoid, GroupScore::kTop2Sum, 1, 1, false, 2, true};
  const auto [ids, weights] = run(g, make.f32({1, 4}, {3, 0, 0, 0}), make.f32({4}, {0, 0, 9, 0}));
  EXPECT_TRUE(close(ids, std::vector<double>{2}, {}));
  EXPECT_TRUE(close(weights, std::vector<double>{1}, kTolerance));  // 0.5 * 2
}

TEST_P(MoeRouteTest, NoTokensAndWrongArguments) {
  const Gate g = kGates[0];
  run(g, make.empty(DType::kF32, {0, g.E}), Tensor{});
  EXPECT_EQ(error_of(
                [&] {
                  run(g, make.normal(DType::kF32, {1, g.E}), make.f32({1}, {0}));
                },
                ErrorKind::kInternal),
            "moe_route: correction_bias is f32 [1], expected f32 [E=256]");
  Gate uneven = g;
  uneven.n_group = 7;
  const auto error = error_of(
      [&] {
        run(uneven, make.normal(DType::kF32, {1, g.E}), {});
      },
      ErrorKind::kInternal);
  EXPECT_NE(error.find("E.value() % a.n_group == 0"), std::string::npos) << error;
}

INSTANTIATE_TEST_SUITE_P(Backends, MoeRouteTest, testing::ValuesIn(backends_under_test()),
                         backend_name);

}  // namespace
}  // namespace dsr::test
