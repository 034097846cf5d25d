// bench --serve-like: arrivals, latencies, and the rows of a run.
#include "app/bench_serve.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>

#include "app/bench_compare.h"
#include "app/bench_report.h"
#include "base/json.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "support/tiny_checkpoint.h"

namespace dsr::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

TEST(BenchServeTest, SpreadsLieBetweenTheNearestValues) {
  // Places of 0, 10 .. 40: the median is the third, 0.9 lies at 3.6, 0.99 at 3.96.
  const Spread s = spread_of({40, 0, 30, 10, 20});
  EXPECT_DOUBLE_EQ(s.mean, 20);
  EXPECT_DOUBLE_EQ(s.median, 20);
  EXPECT_DOUBLE_EQ(s.p90, 36);
  EXPECT_DOUBLE_EQ(s.p99, 39.6);
  EXPECT_DOUBLE_EQ(spread_of({7}).p99, 7);
}

TEST(BenchServeTest, LatenciesCountFromTheArrival) {
  const std::vector<ServedRequest> requests = {{.arrival = 1, .tokens = {3, 4, 6}},
                                               {.arrival = 2, .tokens = {3, 13}}};
  const Latencies l = latencies_of(requests);
  EXPECT_DOUBLE_EQ(l.ttft.mean, (2 + 1) / 2.0);
  EXPECT_DOUBLE_EQ(l.e2e.mean, (5 + 11) / 2.0);
  EXPECT_DOUBLE_EQ(l.tpot.mean, (1.5 + 10) / 2) << "each request once";
  EXPECT_DOUBLE_EQ(l.itl.mean, (1 + 2 + 10) / 3.0) << "each token once";
}

TEST(BenchServeTest, ArrivalsAreAPoissonProcess) {
  const int64_t n = 20'001;
  const std::vector<double> t = arrivals(4, n, 3);
  ASSERT_EQ(std::ssize(t), n);
  EXPECT_EQ(t[0], 0);
  double squares = 0, longer_than_mean = 0;
  for (size_t i = 1; i < t.size(); ++i) {
    const double gap = t[i] - t[i - 1];
    ASSERT_GT(gap, 0);
    squares += gap * gap;
    longer_than_mean += gap > 0.25 ? 1 : 0;
  }
  // Gaps have the mean 1/4 and the same deviation; of n of them the mean deviates by that /
  // sqrt(n), their squares' mean 1/8 by sqrt(20) / 16 / sqrt(n), and e^-1 of them are longer than
  // the mean.
  const auto gaps = static_cast<double>(n - 1);
  EXPECT_NEAR(t.back() / gaps, 0.25, 4 * 0.25 / std::sqrt(gaps));
  EXPECT_NEAR(squares / gaps, 0.125, 4 * std::sqrt(20.0) / 16 / std::sqrt(gaps));
  EXPECT_NEAR(longer_than_mean / gaps, std::exp(-1.0), 4 * 0.5 / std::sqrt(gaps));
  EXPECT_EQ(arrivals(4, 10, 3), std::vector<double>(t.begin(), t.begin() + 10));
  EXPECT_NE(arrivals(4, 10, 4), arrivals(4, 10, 3));
  EXPECT_EQ(arrivals(kInfinity, 3, 1), std::vector<double>(3, 0.0));
}

class BenchServeRun : public ::testing::Test {
 protected:
  void SetUp() override {
    const TinyCheckpoint tiny("v3-fp8");
    tiny.write(dir_.string());
    options_.engine.model_dir = dir_.string();
    options_.engine.device = "cpu";
    options_.prompts = {9};
    options_.generates = {4};
    options_.serve_rates = {500, kInfinity};
    options_.serve_requests = 6;
    options_.batches = {1, 3};
    options_.repetitions = 2;
    options_.warmup = 0;
    options_.format = BenchFormat::kJson;
  }

  TempDir dir_;
  BenchOptions options_;
};

void expect_latencies(const Json& row) {
  for (const char* name : {"ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"}) {
    const Json& s = *row.find(name);
    EXPECT_GT(s.find("mean")->as_double(), 0) << name;
    EXPECT_GT(s.find("median")->as_double(), 0) << name;
    EXPECT_LE(s.find("median")->as_double(), s.find("p90")->as_double()) << name;
    EXPECT_LE(s.find("p90")->as_double(), s.find("p99")->as_double()) << name;
  }
  // Three tokens follow the first.
  EXPECT_NEAR(row.find("e2e_ms")->find("mean")->as_double(),
              row.find("ttft_ms")->find("mean")->as_double() +
                  3 * row.find("tpot_ms")->find("mean")->as_double(),
              1e-6);
}

TEST_F(BenchServeRun, Rows) {
  const BenchReport report = run_bench(options_);
  ASSERT_TRUE(report.complete);
  const Json json = parse_json(report.text, "report");
  const Json::Array& rows = json.find("rows")->as_array();
  ASSERT_EQ(rows.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    const Json& row = rows[i];
    EXPECT_EQ(row.find("test")->as_string(), i < 2 ? "serve9+4@500" : "serve9+4@inf");
    EXPECT_EQ(row.find("batch")->as_int(), i % 2 == 0 ? 1 : 3);
    EXPECT_EQ(row.find("rate")->is_null(), i >= 2);
    EXPECT_GT(row.find("peak_memory_bytes")->as_int(), 1 << 20);
    expect_latencies(row);
    const Json::Array& repetitions = row.find("repetitions")->as_array();
    ASSERT_EQ(repetitions.size(), 2u);
    double sum = 0;
    for (const Json& r : repetitions) {
      expect_latencies(r);
      sum += r.find("tok_per_s")->as_double();
      EXPECT_NEAR(r.find("request_tok_per_s")->as_double(),
                  4000 / r.find("e2e_ms")->find("mean")->as_double(), 1e-6);
    }
    EXPECT_NEAR(row.find("tok_per_s")->as_double(), sum / 2, 1e-6 * sum);
  }
}

TEST_F(BenchServeRun, ARequestWaitsForItsArrivalAndForAPlace) {
  EngineOptions o = options_.engine;
  o.max_seqs = 2;
  o.ctx_size = 64;
  const auto engine = Engine::create(o);
  PhiloxStream ids(0, 0);
  const std::function<bool()> always;
  const ServeCase c{.rate = 200, .requests = 8, .prompt = 5, .n = 3, .batch = 2};
  const auto served = serve(*engine, {c, 7, ids, always});
  ASSERT_TRUE(served);
  const std::vector<double> times = arrivals(200, 8, 7);
  for (size_t i = 0; i < 8; ++i) {
    EXPECT_EQ((*served)[i].arrival, times[i]);
    ASSERT_EQ((*served)[i].tokens.size(), 3u);
    EXPECT_GT((*served)[i].tokens[0], times[i]);
    // With two places none starts before all but one of those ahead of it have ended.
    int64_t running = 0;
    for (size_t j = 0; j < i; ++j)
      running += (*served)[j].tokens.back() > (*served)[i].tokens.front() ? 1 : 0;
    EXPECT_LE(running, 1);
  }
  EXPECT_EQ(engine->stats().prompt_tokens_reused, 0) << "no prompt twice";
}

// Two requests of two tokens, in two repetitions.
BenchFindings findings() {
  ServeRow row{.serve = {.rate = 0.5, .requests = 2, .prompt = 7, .n = 2, .batch = 3}};
  row.test = serve_test(row.serve);
  row.repetitions = {{{.arrival = 0, .tokens = {1, 2}}, {.arrival = 1, .tokens = {3, 4}}},
                     {{.arrival = 0, .tokens = {2, 3}}, {.arrival = 2, .tokens = {4, 8}}}};
  row.peak_memory_bytes = 5'000'000;
  BenchFindings out;
  out.serve_rows = {row};
  return out;
}

TEST(BenchServeReport, FormatsHoldTheSameNumbers) {
  const std::string md = bench_text(findings(), BenchFormat::kMarkdown);
  // TTFT 1, 2, 2, 2; TPOT and ITL 1, 1, 1, 4; E2E 2, 3, 3, 6 seconds. 4 tokens in 4 and in 8 s.
  for (const char* line :
       {"| serve7+2@0.5 | 3 | 4 | 0.75 | 0.35 | TTFT | 1750.00 | 2000.00 | 2000.00 | 2000.00 |\n",
        "| serve7+2@0.5 | 3 | 4 | 0.75 | 0.35 | TPOT | 1750.00 | 1000.00 | 3100.00 | 3910.00 |\n",
        "| serve7+2@0.5 | 3 | 4 | 0.75 | 0.35 | E2E | 3500.00 | 3000.00 | 5100.00 | 5910.00 |\n",
        "\npeak memory 5.0 MB\n"})
    EXPECT_NE(md.find(line), std::string::npos) << line << md;
  const std::string csv = bench_text(findings(), BenchFormat::kCsv);
  EXPECT_EQ(csv.substr(csv.find('\n') + 1, 68),
            "serve7+2@0.5,3,0.500,4,0.75,0.35,1750.000,2000.000,2000.000,2000.000");
  const Json line = parse_json(bench_text(findings(), BenchFormat::kJsonl), "line");
  const Json& row = *line.find("row");
  EXPECT_DOUBLE_EQ(row.find("e2e_ms")->find("p99")->as_double(), 5910);
  EXPECT_DOUBLE_EQ(row.find("rate")->as_double(), 0.5);
}

TEST(BenchServeReport, ComparesWhatOneRequestGets) {
  const TempDir dir;
  const std::string path = dir.string() + "/base.json";
  std::ofstream(path) << bench_text(findings(), BenchFormat::kJson);
  const std::vector<ComparedRow> base = read_base(path).rows;
  ASSERT_EQ(base.size(), 1u);
  EXPECT_EQ(base[0].test, "serve7+2@0.5");
  EXPECT_DOUBLE_EQ(base[0].tok_per_s.at(0), 2 / 2.5);  // E2E 2 and 3 seconds
  EXPECT_DOUBLE_EQ(base[0].tok_per_s.at(1), 2 / 4.5);
  std::vector<ComparedRow> slower = {compared(findings().serve_rows[0])};
  EXPECT_FALSE(compare(base, slower).has_regression);
  for (double& s : slower[0].tok_per_s) s /= 1000;
  EXPECT_FALSE(compare(slower, base).has_regression);
  EXPECT_TRUE(compare({{"serve7+2@0.5", 3, 0, {5, 5, 5}}}, slower).has_regression);
}

TEST_F(BenchServeRun, EndsWhenAskedAndRefusesByName) {
  int steps = 0;
  options_.keep_going = [&] { return ++steps < 5; };
  EXPECT_FALSE(run_bench(options_).complete);
  const auto refused = [&](auto change) {
    BenchOptions o = options_;
    change(o);
    return error_of([&] { run_bench(o); }, ErrorKind::kUsage);
  };
  EXPECT_EQ(refused([](BenchOptions& o) { o.serve_rates = {0}; }),
            "--serve-like takes rates above 0");
  EXPECT_EQ(refused([](BenchOptions& o) { o.serve_rates = {std::nan("")}; }),
            "--serve-like takes rates above 0");
  EXPECT_EQ(refused([](BenchOptions& o) { o.generates = {1}; }),
            "--serve-like needs prompts (-p) of at least one token and answers (-n) of two");
  EXPECT_EQ(refused([](BenchOptions& o) { o.depths = {8}; }),
            "--serve-like takes no -d: requests begin with nothing in the cache");
  EXPECT_EQ(refused([](BenchOptions& o) { o.serve_rates = {}; }), "--requests is of --serve-like");
  const std::string of_table =
      "--memory-table serves no requests: it takes no --serve-like and no --requests";
  EXPECT_EQ(refused([](BenchOptions& o) { o.memory_table = true; }), of_table);
  EXPECT_EQ(refused([](BenchOptions& o) {
              o.memory_table = true;
              o.serve_rates = {};
            }),
            of_table);
}

}  // namespace
}  // namespace dsr::test
