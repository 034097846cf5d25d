// The measurements of a bench and how they are written.
#pragma once

#include <string>
#include <vector>

#include "deepseek_run/bench.h"

namespace dsr {

struct BenchRow {
  std::string test;  // "pp512", "tg128"
  bool decode = false;
  int64_t batch = 0, depth = 0, n = 0;
  std::vector<double> seconds = {};  // of each repetition
  double bytes_per_step = 0;         // decode
  double flop = 0;                   // prefill
  int64_t peak_memory_bytes = 0;

  double tokens() const { return static_cast<double>(batch * n); }
  double tok_per_s() const;     // mean of the repetitions
  double tok_per_s_sd() const;  // their standard deviation (n - 1)
  double median_seconds() const;
};

struct BenchFindings {
  std::string model, architecture, weights, device, cache_type, load_mode;
  std::string processor;  // the name of the GPU or of the cpu
  double start_mhz = 0, end_mhz = 0;
  double load_seconds = 0;
  DevicePeaks peaks;
  std::vector<BenchRow> rows;
};

std::string bench_text(const BenchFindings& findings, BenchFormat format);

}  // namespace dsr
