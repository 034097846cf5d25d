// The measurements of a bench and how they are written.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "app/bench_serve.h"
#include "base/json.h"
#include "deepseek_run/bench.h"

namespace dsr {

struct BenchRow {
  std::string test;  // "pp512", "tg128"
  bool decode = false;
  int64_t batch = 0, depth = 0, n = 0;
  std::vector<double> seconds = {};  // of each repetition
  // What the host read before the first of them and after each; or none.
  std::vector<double> read_gb_per_s = {};
  double bytes_per_step = 0;  // decode
  double flop = 0;            // prefill
  int64_t peak_memory_bytes = 0;

  double tokens() const { return static_cast<double>(batch * n); }
  std::vector<double> tok_per_s() const;  // of each repetition
  double median_seconds() const;
  double gb_per_s(double of_seconds) const;  // decode
  // Of what the host read before and after a repetition, in the median of them; nullopt where it
  // was not measured.
  std::optional<double> share_of_read() const;
};

double median_of(std::vector<double> v);
double mean_of(const std::vector<double>& v);
double deviation_of(const std::vector<double>& v);  // the sample's (n - 1); 0 of one value

struct BenchFindings {
  std::string model, architecture, weights, device, cache_type, load_mode;
  std::string processor;  // the name of the GPU or of the cpu
  double start_mhz = 0, end_mhz = 0;
  double start_seconds = 0;  // from the start of the process to that of loading
  double load_seconds = 0;
  int64_t planned_memory_bytes = 0;
  DevicePeaks peaks;
  std::vector<BenchRow> rows;
  std::vector<ServeRow> serve_rows = {};
};

std::string bench_text(const BenchFindings& findings, BenchFormat format);
// All but the rows.
Json bench_head_json(const BenchFindings& findings);

}  // namespace dsr
