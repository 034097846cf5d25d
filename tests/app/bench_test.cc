// bench: the rows it gives, and the arithmetic of what a step reads and computes.
#include "deepseek_run/bench.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "app/bench_compare.h"
#include "app/bench_work.h"
#include "base/json.h"
#include "model/card.h"
#include "model/declared_source.h"
#include "support/cards.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "support/tiny_checkpoint.h"

namespace dsr::test {
namespace {

BenchWork work_of(const char* name, int64_t kv_bytes_per_token) {
  const ModelConfig c = card_model(card_path(name), "bf16", 0, {});
  return bench_work(c, DeclaredSource(c), kv_bytes_per_token);
}

// Llama 7B: every weight but the embedding is read once a step, whatever the batch.
TEST(BenchWorkTest, OfADenseModel) {
  const BenchWork w = work_of("deepseek-llm-7b", 491520);
  const double matrices = 30.0 * (4.0 * 4096 * 4096 + 3.0 * 4096 * 11008);
  const double head = 102400.0 * 4096, norms = 61.0 * 4096 * 4;  // widened to float32
  EXPECT_DOUBLE_EQ(decode_bytes(w, 1, 0), 2 * (matrices + head) + norms);
  EXPECT_DOUBLE_EQ(decode_bytes(w, 4, 100) - decode_bytes(w, 1, 0), 400.0 * 491520);
  // 3 tokens behind 10 look at 11, 12 and 13; 30 layers, 32 heads of 128, keys and values.
  EXPECT_DOUBLE_EQ(prefill_flop(w, 2, 3, 10),
                   2 * (2 * matrices * 3 + 2 * head + 2.0 * 30 * 32 * 256 * 36));
}

// V2-Lite: 6 of 64 experts for one token, nearly all of them for 64 tokens.
TEST(BenchWorkTest, OfAMixtureOfExperts) {
  const BenchWork w = work_of("deepseek-v2-lite", 31104);
  const double expert = 26.0 * 3 * 2048 * 1408 * 2;
  EXPECT_NEAR(decode_bytes(w, 2, 0) - decode_bytes(w, 1, 0), expert * (6 - 36.0 / 64), 1);
  const double all = decode_bytes(w, 1, 0) + 58 * expert;
  EXPECT_LT(decode_bytes(w, 64, 0), all);
  EXPECT_GT(decode_bytes(w, 64, 0), 0.99 * all);
}

class BenchTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const TinyCheckpoint tiny("v3-fp8");
    tiny.write(dir_.string());
    options_.engine.model_dir = dir_.string();
    options_.engine.device = "reference";
    options_.prompts = {5};
    options_.generates = {3};
    options_.depths = {0, 40};
    options_.batches = {1, 2};
    options_.repetitions = 2;
    options_.format = BenchFormat::kJson;
  }

  TempDir dir_;
  BenchOptions options_;
};

void expect_rows(const Json& report) {
  const Json::Array& rows = report.find("rows")->as_array();
  ASSERT_EQ(rows.size(), 8u);
  size_t at = 0;
  for (const char* test : {"pp5", "tg3"})
    for (const int64_t depth : {0, 40})
      for (const int64_t batch : {1, 2}) {
        const Json& row = rows[at++];
        EXPECT_EQ(row.find("test")->as_string(), test);
        EXPECT_EQ(row.find("depth")->as_int(), depth);
        EXPECT_EQ(row.find("batch")->as_int(), batch);
        ASSERT_EQ(row.find("repetitions")->as_array().size(), 2u);
        const double a = row.find("repetitions")->as_array()[0].as_double();
        const double b = row.find("repetitions")->as_array()[1].as_double();
        EXPECT_NEAR(row.find("tok_per_s")->as_double(), (a + b) / 2, 1e-6 * a);
        EXPECT_NEAR(row.find("tok_per_s_sd")->as_double(), std::abs(a - b) / std::sqrt(2),
                    1e-6 * a);
        const bool decode = test[0] == 't';
        const Json& share = *row.find(decode ? "bandwidth_share" : "peak_share");
        EXPECT_GT(share.as_double(), 0);
        EXPECT_LT(share.as_double(), 1);
        EXPECT_TRUE(row.find(decode ? "peak_share" : "bandwidth_share")->is_null());
        EXPECT_TRUE(row.find("bandwidth_share_then")->is_null());  // it reads less than the probe
        EXPECT_GT(row.find("peak_memory_bytes")->as_int(), 1 << 20);
        EXPECT_LT(row.find("peak_memory_bytes")->as_int(), 1 << 29);  // less what the probe holds
      }
  EXPECT_GT(report.find("bandwidth_gb_per_s")->as_double(), 0);
  EXPECT_GT(report.find("peak_tflops")->as_double(), 0);
}

// Each repetition beside what was read just before and just after it.
TEST(BenchRowTest, SharesAreOfTheSameMinutes) {
  BenchRow row{.test = "tg10", .decode = true, .batch = 1, .n = 10, .bytes_per_step = 1e9};
  row.seconds = {1, 0.5, 2};  // 10, 20 and 5 GB/s
  EXPECT_FALSE(row.share_of_read().has_value());
  row.read_gb_per_s = {20, 20, 30, 10};
  EXPECT_DOUBLE_EQ(row.share_of_read().value(), 0.5);  // of 0.5, 0.8 and 0.25
  row.seconds.pop_back();
  EXPECT_DOUBLE_EQ(row.share_of_read().value(), 0.65);
}

TEST_F(BenchTest, RowsOfACheckpoint) {
  const BenchReport report = run_bench(options_);
  ASSERT_TRUE(report.complete);
  expect_rows(parse_json(report.text, "report"));
}

TEST_F(BenchTest, RowsOfRandomWeights) {
  options_.engine.model_dir.clear();
  options_.engine.random =
      RandomModel{.card = dir_.string() + "/config.json", .weights = "bf16", .layers = 2};
  const BenchReport report = run_bench(options_);
  ASSERT_TRUE(report.complete);
  const Json json = parse_json(report.text, "report");
  expect_rows(json);
  EXPECT_EQ(json.find("weights")->as_string(), "bf16");
  options_.engine.random->layers = 1000;
  EXPECT_EQ(error_of([&] { run_bench(options_); }, ErrorKind::kUsage).substr(0, 16),
            "layers are 1000,");
}

TEST(BenchCompareTest, AChangeCountsBeyondTheNoise) {
  const std::vector<double> quiet = {100, 101, 99, 100}, loud = {100, 140, 60, 100};
  const auto times = [](std::vector<double> v, double factor) {
    for (double& x : v) x *= factor;
    return v;
  };
  // The standard error of `quiet` is sqrt(2/3/4) = 0.41 %; of two such, times 3: 1.7 %, below 2 %.
  EXPECT_DOUBLE_EQ(verdict_of(quiet, quiet).noise, 0.02);
  EXPECT_FALSE(verdict_of(quiet, times(quiet, 0.985)).is_regression());
  EXPECT_TRUE(verdict_of(quiet, times(quiet, 0.97)).is_regression());
  EXPECT_TRUE(verdict_of(quiet, times(quiet, 1.03)).is_gain());
  EXPECT_NEAR(verdict_of(loud, quiet).noise, 3 * std::sqrt(3200.0 / 3 / 4 + 2.0 / 3 / 4) / 100,
              1e-12);
  EXPECT_FALSE(verdict_of(loud, times(loud, 0.7)).is_regression());
  EXPECT_DOUBLE_EQ(verdict_of({100, 100}, {91, 91}).noise, 0.10) << "two say little";
}

TEST_F(BenchTest, ComparesWithAnEarlierReport) {
  options_.prompts = {};
  options_.depths = {0};
  options_.compare = dir_.string() + "/base.json";
  const auto run_against = [&](const char* base) {
    std::ofstream(options_.compare) << base;
    return run_bench(options_);
  };
  const BenchReport slower = run_against(
      R"({"rows": [{"test": "tg3", "batch": 1, "depth": 0, "repetitions": [1e9, 1e9, 1e9]}]})");
  EXPECT_TRUE(slower.has_regression);
  EXPECT_NE(slower.comparison.find("slower"), std::string::npos) << slower.comparison;
  // Of three runs of milliseconds one may be interrupted, and they say "the same": not every time.
  BenchReport faster;
  for (int attempt = 0; attempt < 5; ++attempt) {
    faster = run_against(
        R"({"rows": [{"test": "tg3", "batch": 2, "depth": 0, "repetitions": [1e-3, 1e-3, 1e-3]}]})");
    EXPECT_FALSE(faster.has_regression);
    EXPECT_EQ(faster.comparison.find("slower"), std::string::npos) << faster.comparison;
    if (faster.comparison.find("faster") != std::string::npos) break;
  }
  EXPECT_NE(faster.comparison.find("faster"), std::string::npos) << faster.comparison;
  EXPECT_EQ(faster.comparison.find(" was "), std::string::npos) << faster.comparison;
  const BenchReport other = run_against(
      R"({"device": "cuda", "weights": "none", "rows":
          [{"test": "tg3", "batch": 2, "depth": 0, "repetitions": [1e-3, 1e-3, 1e-3]}]})");
  EXPECT_TRUE(other.comparison.starts_with("note: device was \"cuda\", is \"")) << other.comparison;
  EXPECT_NE(other.comparison.find("note: weights was \"none\", is \""), std::string::npos);
  EXPECT_TRUE(
      other.comparison.ends_with("note: not in the earlier report: tg3, batch 1, depth 0\n"))
      << other.comparison;
  EXPECT_EQ(error_of([&] { run_against("[]"); }, ErrorKind::kUsage),
            "--compare: " + options_.compare + ": not a report of bench --format json");
  EXPECT_EQ(error_of([&] { run_against(R"({"rows": []})"); }, ErrorKind::kUsage),
            "--compare: the reports have no row in common");
}

TEST_F(BenchTest, EndsWhenAsked) {
  int steps = 0;
  options_.keep_going = [&] { return ++steps < 3; };
  EXPECT_FALSE(run_bench(options_).complete);
  EXPECT_EQ(steps, 3);
}

// A depth is in the cache, not computed: its answer takes as many steps as tokens, and differs from
// the same tokens without it.
TEST_F(BenchTest, AssumedTokensAreNotComputed) {
  const auto engine = Engine::create(
      {.model_dir = dir_.string(), .device = "reference", .ctx_size = 64, .chunk = 8, .warn = {}});
  engine->fill_cache();
  Request r;
  r.prompt.assign(41, 7);
  r.assumed_tokens = 40;
  r.max_new_tokens = 3;
  r.ignore_eos = true;
  engine->submit(r);
  while (!engine->idle()) engine->step();
  EXPECT_EQ(engine->stats().steps, 3);
  EXPECT_EQ(engine->stats().prompt_tokens_computed, 1);
  r.assumed_tokens = 41;
  EXPECT_EQ(error_of([&] { engine->submit(r); }, ErrorKind::kUsage),
            "assumed_tokens are 41 of a prompt of 41");
}

}  // namespace
}  // namespace dsr::test
