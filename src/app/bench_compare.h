// Two benches, and whether what differs is more than noise.
#pragma once

#include <string>
#include <vector>

#include "app/bench_report.h"
#include "base/json.h"

namespace dsr {

// A row as far as it is compared.
struct ComparedRow {
  std::string test;
  int64_t batch = 0, depth = 0;
  // Of each repetition; where requests arrive by the clock, as one of them has it.
  std::vector<double> tok_per_s;
};
ComparedRow compared(const BenchRow& row);
ComparedRow compared(const ServeRow& row);
// A report that was written with --format json. Throws Error(kUsage).
struct BenchBase {
  Json report;
  std::vector<ComparedRow> rows;
};
BenchBase read_base(const std::string& path);
// What of machine and model is not as it was, a line each: then a verdict is of them too. What
// the earlier report does not say is not compared.
std::string unlike(const Json& before, const Json& now);

struct BenchVerdict {
  double before = 0, after = 0;  // mean tok/s
  double change = 0;             // after / before - 1
  double noise = 0;              // a smaller change means nothing
  bool is_regression() const { return change < -noise; }
  bool is_gain() const { return change > noise; }
};
// Noise: three standard errors of the difference of the means (Welch 1947), but no less than 2 %,
// and 10 % where a side has fewer than three repetitions and its deviation says little.
BenchVerdict verdict_of(const std::vector<double>& before, const std::vector<double>& after);

struct BenchComparison {
  std::string text;
  bool has_regression = false;
};
// Names the rows that are only in the later one. Throws Error(kUsage) where no row is in both.
BenchComparison compare(const std::vector<ComparedRow>& base, const std::vector<ComparedRow>& rows);

}  // namespace dsr
