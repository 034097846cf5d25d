#include "app/bench_compare.h"

#include <algorithm>
#include <cmath>

#include "app/format.h"
#include "base/error.h"
#include "base/mapped_file.h"

namespace dsr {
namespace {

constexpr double kLeastNoise = 0.02, kUnknownNoise = 0.10;
constexpr double kStandardErrors = 3;
constexpr int64_t kMaxReportBytes = int64_t{16} << 20;

// The squared standard error of the mean.
double squared_error(const std::vector<double>& v) {
  return std::pow(deviation_of(v), 2) / static_cast<double>(v.size());
}

std::string change_in_percent(double share) {
  return (share > 0 ? "+" : "") + fixed(share * 100, 1) + " %";
}

ComparedRow read_row(const Json& json, const std::string& path) {
  JsonReader row(json, path);
  ComparedRow out{row.require_string("test"),
                  row.require_int("batch", 1, 1 << 20),
                  row.require_int("depth", 0, int64_t{1} << 32),
                  {}};
  const Json& repetitions = row.require("repetitions");
  if (!repetitions.is_array() || repetitions.as_array().empty())
    fail_usage(path, ": ", out.test, " has no repetitions");
  for (const Json& r : repetitions.as_array()) {
    const Json* speed = r.is_object() ? r.find("request_tok_per_s") : &r;
    if (speed == nullptr || !speed->is_number() || speed->as_double() <= 0)
      fail_usage(path, ": a repetition of ", out.test, " is not a number above 0");
    out.tok_per_s.push_back(speed->as_double());
  }
  return out;
}

}  // namespace

ComparedRow compared(const BenchRow& r) { return {r.test, r.batch, r.depth, r.tok_per_s()}; }
ComparedRow compared(const ServeRow& r) {
  return {r.test, r.serve.batch, 0, r.request_tok_per_s()};
}

BenchBase read_base(const std::string& path) {
  try {
    BenchBase out{parse_json(read_file(path, kMaxReportBytes), path), {}};
    const Json* rows = out.report.is_object() ? out.report.find("rows") : nullptr;
    if (rows == nullptr || !rows->is_array())
      fail_usage(path, ": not a report of bench --format json");
    for (const Json& row : rows->as_array()) out.rows.push_back(read_row(row, path));
    return out;
  } catch (const Error& e) {
    fail_usage("--compare: ", e.what());  // the file is the user's, not a model's
  }
}

std::string unlike(const Json& before, const Json& now) {
  std::string out;
  for (const char* key :
       {"machine", "device", "architecture", "weights", "cache_type", "peak_type", "load_mode"}) {
    const Json* old = before.find(key);
    const Json* is = now.find(key);
    if (old == nullptr || is == nullptr || old->dump() == is->dump()) continue;
    out += str("note: ", key, " was ", escaped(old->dump()), ", is ", escaped(is->dump()), "\n");
  }
  return out;
}

BenchVerdict verdict_of(const std::vector<double>& before, const std::vector<double>& after) {
  BenchVerdict out{.before = mean_of(before), .after = mean_of(after)};
  out.change = out.after / out.before - 1;
  const double error = std::sqrt(squared_error(before) + squared_error(after)) / out.before;
  const bool known = std::min(before.size(), after.size()) >= 3;
  out.noise = std::max(kStandardErrors * error, known ? kLeastNoise : kUnknownNoise);
  return out;
}

BenchComparison compare(const std::vector<ComparedRow>& base,
                        const std::vector<ComparedRow>& rows) {
  BenchComparison out;
  std::vector<std::vector<std::string>> cells = {
      {"test", "batch", "depth", "before", "after", "change", "noise", ""}};
  std::string added;
  for (const ComparedRow& row : rows) {
    const auto before = std::find_if(base.begin(), base.end(), [&](const ComparedRow& b) {
      return b.test == row.test && b.batch == row.batch && b.depth == row.depth;
    });
    if (before == base.end()) {
      added += str("note: not in the earlier report: ", row.test, ", batch ", row.batch, ", depth ",
                   row.depth, "\n");
      continue;
    }
    const BenchVerdict v = verdict_of(before->tok_per_s, row.tok_per_s);
    out.has_regression = out.has_regression || v.is_regression();
    cells.push_back({row.test, str(row.batch), str(row.depth), fixed(v.before, 2),
                     fixed(v.after, 2), change_in_percent(v.change), fixed(v.noise * 100, 1) + " %",
                     v.is_regression() ? "slower"
                     : v.is_gain()     ? "faster"
                                       : "the same"});
  }
  if (cells.size() == 1) fail_usage("--compare: the reports have no row in common");
  out.text = table({{}, {true}, {true}, {true}, {true}, {true}, {true}, {}}, cells) + added;
  return out;
}

}  // namespace dsr
