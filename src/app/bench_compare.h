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
// The rows of a report that was written with --format json. Throws Error(kUsage).
std::vector<ComparedRow> read_base(const std::string& path);

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
// Throws Error(kUsage) where no row is in both.
BenchComparison compare(const std::vector<ComparedRow>& base, const std::vector<ComparedRow>& rows);

}  // namespace dsr
