#include <algorithm>
#include <limits>

#include "base/rng.h"
#include "ops/sample_fixture.h"
#include "support/expect_error.h"

namespace dsr::test {
namespace {

TEST_P(SampleTest, GreedyTakesTheLargestAndTheLowestIdOfEquals) {
  const Tensor logits = make.f32({3, 4}, {1, 3, 2, 3, -5, -7, -5, -5, 0, 0, 0, 0.5f});
  EXPECT_EQ(sample(logits, std::vector<SampleRow>(3)).tokens, (std::vector<int32_t>{1, 0, 3}));
  EXPECT_EQ(sample(logits, std::vector<SampleRow>(3), {0, 1, 3}).tokens,
            (std::vector<int32_t>{2, 2, 2}));
}

TEST_P(SampleTest, ALogitThatIsNotFiniteSetsTheFlagOfItsRowOnly) {
  const float inf = std::numeric_limits<float>::infinity();
  const Tensor logits = make.f32({4, 3}, {0, 1, 0, 0, std::nanf(""), 9, 0, inf, 0, 0, -inf, 5});
  for (const float temperature : {0.0f, 1.0f}) {
    std::vector<SampleRow> rows(4);
    for (SampleRow& r : rows) r.temperature = temperature;
    const Drawn d = sample(logits, rows);
    EXPECT_EQ(d.non_finite, (std::vector<int32_t>{0, 1, 1, 1}));
    EXPECT_GE(d.tokens[0], 0);
    EXPECT_EQ(std::vector<int32_t>(d.tokens.begin() + 1, d.tokens.end()),
              (std::vector<int32_t>{-1, -1, -1}));
  }
}

TEST_P(SampleTest, MaskedIdsAreNeverDrawn) {
  const int64_t V = 129280;  // V3's vocabulary; ids without a token stand at its end
  const Tensor logits = make.normal(DType::kF32, {8, V});
  std::set<int64_t> masked;
  for (int64_t id = 0; id < V; ++id)
    if (id % 3 != 1 || id >= V - 500) masked.insert(id);
  for (int64_t r = 0; r < 8; ++r) logits.ptr<float>(r)[V - 1] = 100;  // the likeliest by far
  std::vector<SampleRow> rows(8);
  for (size_t r = 0; r < rows.size(); ++r) rows[r] = {.temperature = r % 2 == 0 ? 0.0f : 1.0f};
  for (const int32_t id : sample(logits, rows, masked).tokens) EXPECT_FALSE(masked.contains(id));
}

// token = argmax over the kept set of logit / T + g(id): the definition itself, restated.
TEST_P(SampleTest, IsTheGumbelArgmaxOfItsPhiloxNumbers) {
  const int64_t R = 64, V = 1000;
  const Tensor logits = make.normal(DType::kF32, {R, V}, 2);
  std::vector<SampleRow> rows;
  std::vector<int32_t> want;
  for (int64_t r = 0; r < R; ++r) {
    rows.push_back({.temperature = 0.7f,
                    .top_k = r % 2 == 0 ? 0 : 20,
                    .sample_index = static_cast<int32_t>(r % 3),
                    .seed = 0x123456789abcdefull + static_cast<uint64_t>(r),
                    .position = (int64_t{1} << 33) + r});
    const std::vector<float> row(logits.ptr<float>(r), logits.ptr<float>(r) + V);
    double best = -1e300;
    for (const auto& [id, p] : kept(row, rows.back())) {
      const PhiloxBlock block =
          philox4x32(rows.back().seed, {static_cast<uint32_t>(r), 2,  // the position's two words
                                        static_cast<uint32_t>(r % 3), static_cast<uint32_t>(id)});
      const double u = static_cast<double>(uniform_open(block[0]));
      const double value =
          static_cast<double>(row[static_cast<size_t>(id)]) / 0.7 - std::log(-std::log(u));
      if (value > best) {
        best = value;
        if (static_cast<int64_t>(want.size()) <= r) want.push_back(0);
        want.back() = id;
      }
    }
  }
  EXPECT_EQ(sample(logits, rows).tokens, want);
}

TEST_P(SampleTest, CutsKeepThePromisedSet) {
  const std::vector<float> logits = {0.1f, 2.0f, -1.0f, 1.5f, 2.0f, 0.9f, -3.0f, 1.0f, 1.5f, 0.0f};
  const SampleRow cuts[] = {{.temperature = 1, .top_k = 3},
                            {.temperature = 1, .top_k = 1},
                            {.temperature = 1, .top_k = 100},
                            {.temperature = 1, .top_p = 0.5f},
                            {.temperature = 0.5f, .top_p = 0.9f},
                            {.temperature = 1, .top_p = 1e-6f},
                            {.temperature = 1, .min_p = 0.3f},
                            {.temperature = 2, .min_p = 1},
                            {.temperature = 1, .top_p = 0.8f, .min_p = 0.2f, .top_k = 6}};
  for (const SampleRow& row : cuts) {
    std::set<int32_t> want, got;
    for (const auto& [id, p] : kept(logits, row)) want.insert(id);
    for (const int32_t id : draws(logits, row, 4000)) got.insert(id);
    EXPECT_EQ(got, want) << "top_k " << row.top_k << " top_p " << row.top_p << " min_p "
                         << row.min_p;
  }
}

// top_p as close to a sum of likelihoods as it can come, on it and on both sides of it: a set that
// is one id too large or too small draws that id sooner or later.
TEST_P(SampleTest, TheCpuKeepsTheDefinitionsSetToTheLastId) {
  if (exec.backend() != Backend::kCpu) GTEST_SKIP() << "for the cpu, which takes a short way";
  Exec reference = Exec::reference_with(DType::kF32);
  for (const int64_t V : {20, 600}) {
    const Tensor normal = make.normal(DType::kF32, {1, V}, 2);
    const std::vector<float> equal(static_cast<size_t>(V), 0.25f);
    const std::vector<float> different(normal.ptr<float>(), normal.ptr<float>() + V);
    for (const std::vector<float>& logits : {equal, different}) {
      std::set<int64_t> masked = {3, V - 1};
      std::vector<double> p;
      for (int64_t id = 0; id < V; ++id)
        if (!masked.contains(id)) p.push_back(std::exp(logits[static_cast<size_t>(id)] / 0.8));
      std::sort(p.rbegin(), p.rend());
      double total = 0, sum = 0;
      for (const double x : p) total += x;
      std::vector<SampleRow> rows;
      std::vector<float> all;
      for (size_t k = 0; k + 1 < std::min<size_t>(p.size(), 18); ++k) {
        sum += p[k];
        const auto share = static_cast<float>(sum / total);
        for (const float top_p : {std::nextafter(share, 0.0f), share, std::nextafter(share, 1.0f)})
          for (int64_t position = 0; position < 60; ++position) {
            rows.push_back({.temperature = 0.8f, .top_p = top_p, .position = position});
            if (k % 3 == 2) rows.back().min_p = 0.2f;
            if (k % 5 == 4) rows.back().top_k = 12;
            all.insert(all.end(), logits.begin(), logits.end());
          }
      }
      const Tensor t = make.f32({std::ssize(rows), V}, all);
      EXPECT_EQ(sample(t, rows, masked).tokens, sample_on(reference, t, rows, masked).tokens);
    }
  }
}

TEST_P(SampleTest, TheDrawDependsOnSeedPositionAndIndexOnly) {
  const int64_t V = 200;
  const Tensor one = make.normal(DType::kF32, {1, V});
  std::vector<float> logits(one.ptr<float>(), one.ptr<float>() + V);
  std::vector<SampleRow> rows;
  std::vector<float> all;
  for (int i = 0; i < 9; ++i) {
    rows.push_back({.temperature = 1, .seed = 5, .position = 77});
    all.insert(all.end(), logits.begin(), logits.end());
  }
  rows[1].temperature = 0;  // other rows' parameters do not matter
  rows[3].seed = 6;         // the draw's own do
  rows[4].position = 78;
  rows[5].sample_index = 1;
  rows[6].position = 77 + (int64_t{1} << 32);
  rows[7].seed = 5 + (uint64_t{1} << 32);
  const std::vector<int32_t> tokens = sample(make.f32({9, V}, all), rows).tokens;
  EXPECT_EQ(sample(one, {rows[0]}).tokens[0], tokens[0]);
  EXPECT_EQ(tokens[2], tokens[0]);
  EXPECT_EQ(tokens[8], tokens[0]);
  // Five draws from 200: that one of them agrees by chance is likely; that all do is not.
  EXPECT_FALSE(std::all_of(tokens.begin() + 3, tokens.begin() + 8,
                           [&](int32_t id) { return id == tokens[0]; }));
}

// A cut that removes nothing near the winner leaves the draw as it was: every id has its own
// number.
TEST_P(SampleTest, TheDrawDoesNotDependOnTheCandidatesOrder) {
  const Tensor logits = make.normal(DType::kF32, {200, 300});
  std::vector<SampleRow> plain, cut;
  for (int i = 0; i < 200; ++i) {
    plain.push_back({.temperature = 1, .seed = 3, .position = i});
    cut.push_back(plain.back());
    cut.back().top_k = 299;
    cut.back().top_p = 0.9999f;
  }
  const std::vector<int32_t> a = sample(logits, plain).tokens, b = sample(logits, cut).tokens;
  int different = 0;
  for (size_t i = 0; i < a.size(); ++i) different += a[i] != b[i] ? 1 : 0;
  EXPECT_LE(different, 1);  // the tail that was cut has a probability of 1e-4
}

// Repetition, then presence and frequency over the window, then biases: what greedy then takes.
TEST_P(SampleTest, PenaltiesAndBiasesMoveTheLogits) {
  const int64_t R = 300, V = 40;
  const Tensor logits = make.normal(DType::kF32, {R, V});
  std::vector<int32_t> earlier, ids;
  std::vector<float> values;
  std::vector<SampleRow> rows;
  std::vector<int32_t> want;
  for (int64_t r = 0; r < R; ++r) {
    SampleRow row{.repetition_penalty = 1.3f, .presence_penalty = 0.4f, .frequency_penalty = 0.2f};
    std::vector<float> l(logits.ptr<float>(r), logits.ptr<float>(r) + V);
    row.history_begin = static_cast<int32_t>(earlier.size());
    std::map<int32_t, int> window;
    for (int i = 0; i < 20; ++i) ++window[earlier.emplace_back(make.below(V))];
    row.history_end = static_cast<int32_t>(earlier.size());
    for (const auto& [id, times] : window) {
      float& logit = l[static_cast<size_t>(id)];
      logit = logit > 0 ? logit / 1.3f : logit * 1.3f;
      logit -= 0.4f + 0.2f * static_cast<float>(times);
    }
    row.bias_begin = static_cast<int32_t>(ids.size());
    for (int i = 0; i < 3; ++i) {  // each id once
      ids.push_back(make.below(V / 3) * 3 + i);
      values.push_back(make.random().next_normal());
      l[static_cast<size_t>(ids.back())] += values.back();
    }
    row.bias_end = static_cast<int32_t>(ids.size());
    rows.push_back(row);
    want.push_back(static_cast<int32_t>(std::max_element(l.begin(), l.end()) - l.begin()));
  }
  history = make.i32({static_cast<int64_t>(earlier.size())}, earlier);
  bias_ids = make.i32({static_cast<int64_t>(ids.size())}, ids);
  bias_values = make.f32({static_cast<int64_t>(values.size())}, values);
  EXPECT_EQ(sample(logits, rows).tokens, want);
}

TEST_P(SampleTest, NoRowsAndWrongArguments) {
  EXPECT_TRUE(sample(make.empty(DType::kF32, {0, 7}), {}).tokens.empty());
  const Tensor logits = make.normal(DType::kF32, {1, 7});
  bias_ids = make.i32({1}, {7});
  bias_values = make.f32({1}, {1});
  if (!on_cuda()) {  // a kernel cannot say so
    const std::string outside =
        error_of([&] { sample(logits, {{.bias_end = 1}}); }, ErrorKind::kInternal);
    EXPECT_NE(outside.find("with 7"), std::string::npos) << outside;
  }
  bias_values = make.f32({2}, {1, 1});
  EXPECT_EQ(error_of([&] { sample(logits, {{}}); }, ErrorKind::kInternal),
            "sample: bias_values is f32 [2], expected f32 [B=1]");
}

class SampleCutsTest : public SampleTest {
 protected:
  // Rows of V logits, peaked and flat, many of them in one bin, all of them equal, under all cuts,
  // with and without edits. (A kept set may differ by the id at its edge, since sums round: not at
  // these seeds.)
  void expect_the_definition(int64_t V) {
    if (exec.backend() == Backend::kReference) GTEST_SKIP() << "the definition itself";
    const float sigmas[] = {6, 2, 0.5f, 1e-3f, 0};
    const SampleRow cuts[] = {{.temperature = 0.6f, .top_p = 0.95f},
                              {.temperature = 1, .top_p = 0.5f},
                              {.temperature = 1.5f, .top_p = 0.999f, .min_p = 0.01f},
                              {.temperature = 0.8f, .top_k = 50},
                              {.temperature = 1, .top_p = 0.9f, .top_k = 3000},
                              {.temperature = 1, .top_p = 1e-6f, .top_k = 7},
                              {.temperature = 2, .min_p = 0.2f}};
    std::vector<SampleRow> rows;
    std::vector<float> logits;
    history = make.i32({5}, {1, 2, 9, 2, 3});
    for (const bool edited : {false, true}) {
      for (const float sigma : sigmas) {
        const Tensor row = make.normal(DType::kF32, {V}, sigma);
        for (const SampleRow& cut : cuts) {
          logits.insert(logits.end(), row.ptr<float>(), row.ptr<float>() + V);
          rows.push_back(cut);
          rows.back().seed = rows.size();
          rows.back().position = V;
          rows.back().presence_penalty = 0.5f;
          rows.back().history_end = edited ? 5 : 0;
        }
      }
    }
    const auto R = static_cast<int64_t>(rows.size());
    const Tensor all = make.f32({R, V}, logits);
    const std::set<int64_t> masked = {0, 7, V - 1};
    Exec reference = Exec::reference_with(DType::kF32);
    const Drawn got = sample(all, rows, masked), want = sample_on(reference, all, rows, masked);
    for (size_t r = 0; r < rows.size(); ++r)
      EXPECT_EQ(got.tokens[r], want.tokens[r])
          << "V=" << V << " sigma " << sigmas[r / std::size(cuts) % std::size(sigmas)] << " cut "
          << r % std::size(cuts) << " edited " << rows[r].history_end;
  }
};

TEST_P(SampleCutsTest, OfShortRowsAreTheDefinitions) {
  for (const int64_t V : {10, 300, 8196}) expect_the_definition(V);
}
// Of real vocabularies, and of rows that are no whole chunks of 16 bytes.
TEST_P(SampleCutsTest, OfLongRowsAreTheDefinitions) {
  for (const int64_t V : {32001, 102400, 129280})
    if (on_cuda() || V < 40000) expect_the_definition(V);
}

INSTANTIATE_TEST_SUITE_P(Backends, SampleTest, testing::ValuesIn(backends_under_test()),
                         backend_name);
INSTANTIATE_TEST_SUITE_P(Backends, SampleCutsTest, testing::ValuesIn(backends_under_test()),
                         backend_name);

}  // namespace
}  // namespace dsr::test
