// Whether draws follow the distribution, and whether all stages together are what each promises.
#include <cmath>

#include "base/rng.h"
#include "ops/sample_fixture.h"

namespace dsr::test {
namespace {

// Pearson's statistic of the counts over bins that expect at least 5 each (rarer ids share one).
struct ChiSquare {
  double value = 0;
  double degrees = -1;

  void add(double count, double expected) {
    value += (count - expected) * (count - expected) / expected;
    ++degrees;
  }
  // Mean df, variance 2 df; five standard deviations, about one in a million.
  double limit() const { return degrees + 5 * std::sqrt(2 * degrees); }
};

ChiSquare chi_square(const std::map<int32_t, double>& probability,
                     const std::map<int32_t, int64_t>& count, int64_t n) {
  ChiSquare out;
  double rare = 0, rare_expected = 0;
  for (const auto& [id, p] : probability) {
    const auto found = count.find(id);
    const auto c = static_cast<double>(found == count.end() ? 0 : found->second);
    const double expected = p * static_cast<double>(n);
    if (expected >= 5) {
      out.add(c, expected);
    } else {
      rare += c;
      rare_expected += expected;
    }
  }
  if (rare_expected > 0.5) out.add(rare, rare_expected);
  return out;
}

class SampleDistributionTest : public SampleTest {};

// 10^6 draws for each setting against the softmax of the kept set in float64.
TEST_P(SampleDistributionTest, AMillionDrawsFollowTheSoftmaxOfTheKeptSet) {
  constexpr int64_t kDraws = 1'000'000;
  std::vector<float> logits;
  for (int i = 0; i < 24; ++i) logits.push_back(std::sin(static_cast<float>(i) * 1.7f) * 2);
  history = make.i32({6}, {3, 3, 7, 1, 3, 12});
  bias_ids = make.i32({3}, {2, 3, 20});
  bias_values = make.f32({3}, {1.5f, 0.25f, -2});
  const SampleRow settings[] = {
      {.temperature = 1},
      {.temperature = 0.6f, .top_p = 0.95f},
      {.temperature = 1.5f, .top_k = 10, .seed = 1},
      {.temperature = 1, .min_p = 0.1f, .seed = uint64_t{1} << 63},
      {.temperature = 0.8f,
       .top_p = 0.9f,
       .min_p = 0.02f,
       .top_k = 15,
       .repetition_penalty = 1.3f,
       .presence_penalty = 0.4f,
       .frequency_penalty = 0.2f,
       .sample_index = 3,
       .seed = 77,
       .history_end = 6,
       .bias_end = 3},
  };
  for (const SampleRow& row : settings) {
    const std::map<int32_t, double> p =
        kept(moved(logits, row, history, bias_ids, bias_values), row);
    std::map<int32_t, int64_t> count;
    for (const int32_t id : draws(logits, row, kDraws)) ++count[id];
    for (const auto& [id, times] : count) EXPECT_TRUE(p.contains(id)) << id;
    const ChiSquare x = chi_square(p, count, kDraws);
    EXPECT_GE(x.degrees, 4);
    EXPECT_LT(x.value, x.limit()) << "temperature " << row.temperature << " seed " << row.seed;
  }
}

// The statistic can fail: draws at one temperature against the probabilities of one that differs by
// two hundredths.
TEST_P(SampleDistributionTest, TwoHundredthsOfATemperatureAreNoticed) {
  constexpr int64_t kDraws = 1'000'000;
  std::vector<float> logits;
  for (int i = 0; i < 24; ++i) logits.push_back(std::sin(static_cast<float>(i) * 1.7f) * 2);
  std::map<int32_t, int64_t> count;
  for (const int32_t id : draws(logits, {.temperature = 1.02f}, kDraws)) ++count[id];
  const ChiSquare x = chi_square(kept(logits, {.temperature = 1}), count, kDraws);
  EXPECT_GT(x.value, 2 * x.limit());
}

// A row of all stages: what is drawn, and whether float32 could decide otherwise.
struct Plain {
  int32_t token = -1;
  bool close = false;
};

Plain plain_sample(const std::vector<double>& logits, const SampleRow& row) {
  if (row.temperature == 0) {
    const auto best = std::max_element(logits.begin(), logits.end());
    Plain out{static_cast<int32_t>(best - logits.begin()), false};
    for (const double l : logits) out.close |= l != *best && l > *best - 1e-5;
    return out;
  }
  const std::map<int32_t, double> set = kept(logits, row);
  Plain out;
  // Where a cut lies within rounding of a token, the set is one or the other.
  for (const double nudge : {-1e-5, 1e-5}) {
    SampleRow near = row;
    near.top_p = static_cast<float>(static_cast<double>(row.top_p) * (1 + nudge));
    near.min_p = std::min(1.0f, static_cast<float>(static_cast<double>(row.min_p) * (1 + nudge)));
    if (row.top_p < 1) out.close |= kept(logits, near).size() != set.size();
    near.top_p = row.top_p;
    out.close |= kept(logits, near).size() != set.size();
  }
  double best = -1e300, second = -1e300;
  for (const auto& [id, p] : set) {
    const PhiloxBlock block = philox4x32(
        row.seed, {static_cast<uint32_t>(row.position), static_cast<uint32_t>(row.position >> 32),
                   static_cast<uint32_t>(row.sample_index), static_cast<uint32_t>(id)});
    const double u = static_cast<double>(uniform_open(block[0]));
    const double value = logits[static_cast<size_t>(id)] / static_cast<double>(row.temperature) -
                         std::log(-std::log(u));
    second = std::max(second, std::min(best, value));
    if (value > best) out.token = id;
    best = std::max(best, value);
  }
  out.close |= best - second < 1e-4 + 1e-6 * std::abs(best);
  return out;
}

class SampleStagesTest : public SampleTest {
 protected:
  // R rows of random parameters. Returns how many were too close to say what they must be.
  int64_t expect_plain(int64_t R, int64_t V);
};

int64_t SampleStagesTest::expect_plain(int64_t R, int64_t V) {
  const Tensor logits = make.normal(DType::kF32, {R, V}, 3);
  const auto one_of = [&](std::initializer_list<float> values) {
    return values.begin()[make.below(static_cast<int64_t>(values.size()))];
  };
  std::vector<SampleRow> rows;
  std::vector<int32_t> earlier, ids;
  std::vector<float> values;
  for (int64_t r = 0; r < R; ++r) {
    SampleRow row{.temperature = one_of({0, 0.01f, 0.6f, 1, 3}),
                  .top_p = one_of({1, 0.0001f, 0.5f, 0.95f}),
                  .min_p = one_of({0, 0.05f, 0.5f, 1}),
                  .top_k = make.below(2) * make.below(70),
                  .repetition_penalty = one_of({1, 0.5f, 1.3f, 100}),
                  .presence_penalty = one_of({0, -3, 1.5f}),
                  .frequency_penalty = one_of({0, -0.5f, 2}),
                  .sample_index = make.below(3),
                  .seed = make.random().next_u32(),
                  .position = r};
    row.history_begin = static_cast<int32_t>(earlier.size());
    for (int32_t n = make.below(2) * make.below(40); n > 0; --n) earlier.push_back(make.below(V));
    row.history_end = static_cast<int32_t>(earlier.size());
    row.bias_begin = static_cast<int32_t>(ids.size());
    for (int32_t id = make.below(8); id < V; id += 1 + make.below(50)) {
      ids.push_back(id);
      values.push_back(one_of({-100, -2, 0.5f, 4}));
    }
    row.bias_end = static_cast<int32_t>(ids.size());
    rows.push_back(row);
  }
  history = make.i32({static_cast<int64_t>(earlier.size())}, earlier);
  bias_ids = make.i32({static_cast<int64_t>(ids.size())}, ids);
  bias_values = make.f32({static_cast<int64_t>(values.size())}, values);
  const std::vector<int32_t> got = sample(logits, rows).tokens;
  int64_t too_close = 0;
  for (int64_t r = 0; r < R; ++r) {
    const SampleRow& row = rows[static_cast<size_t>(r)];
    const std::vector<float> l(logits.ptr<float>(r), logits.ptr<float>(r) + V);
    const Plain want = plain_sample(moved(l, row, history, bias_ids, bias_values), row);
    if (want.close)
      ++too_close;
    else
      EXPECT_EQ(got[static_cast<size_t>(r)], want.token) << "row " << r;
  }
  return too_close;
}

TEST_P(SampleStagesTest, AllTogetherAreThePlainReference) { EXPECT_LT(expect_plain(3000, 60), 60); }

// A row that several blocks of a GPU share, the last of them nearly empty, and one that is not at
// 16 bytes. Among so many ids a cut is often within rounding of one.
TEST_P(SampleStagesTest, AndOfALargeVocabulary) {
  EXPECT_LT(expect_plain(60, 8200), 20);
  EXPECT_LT(expect_plain(60, 8195), 20);
}

// The definition, and the cpu at its best: its levels share this code.
std::vector<BackendUnderTest> definition_and_best() {
  std::vector<BackendUnderTest> out = {{Backend::kReference, DType::kF32},
                                       {Backend::kCpu, DType::kF32, best_cpu_level()}};
  if (built_with_cuda()) out.push_back({Backend::kCuda, DType::kBF16});
  return out;
}

INSTANTIATE_TEST_SUITE_P(Backends, SampleStagesTest, testing::ValuesIn(definition_and_best()),
                         backend_name);
INSTANTIATE_TEST_SUITE_P(Backends, SampleDistributionTest, testing::ValuesIn(definition_and_best()),
                         backend_name);

}  // namespace
}  // namespace dsr::test
