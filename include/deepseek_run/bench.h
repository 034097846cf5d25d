// How fast a model runs here, and how near that is to what the machine can do.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "deepseek_run/engine.h"

namespace dsr {

enum class BenchFormat { kMarkdown, kJson, kJsonl, kCsv };

struct BenchOptions {
  EngineOptions engine;  // context and sequences are chosen for the rows
  // One row for each of prompts and for each of generates, at each depth and batch size. 0: none.
  // With serve_rates one row for each of them, prompt, answer and batch size.
  std::vector<int64_t> prompts = {512};    // tokens of a prompt ("pp512")
  std::vector<int64_t> generates = {128};  // tokens of an answer ("tg128")
  std::vector<int64_t> depths = {0};       // tokens in the cache before
  std::vector<int64_t> batches = {};       // sequences at a time; empty: 1, served: 32
  // Requests that arrive at random, so many a second; infinity: all at once. Empty: no serving.
  std::vector<double> serve_rates = {};
  int64_t serve_requests = 0;  // of a repetition; 0: 64
  // Instead of rows: memory by batch size (batches; empty: 1 to 16) and sequence length, as planned
  // and, unless planned_only, as measured.
  bool memory_table = false;
  bool planned_only = false;
  std::string gpus = {};  // "1xA100-40": planned for these instead of this machine
  int64_t repetitions = 5;
  int64_t warmup = 1;  // runs before that are not counted
  BenchFormat format = BenchFormat::kMarkdown;
  std::string compare = {};  // a report in json to compare with; empty: none
  // Asked before every step; false ends the run.
  std::function<bool()> keep_going;
};

struct BenchReport {
  std::string text;
  bool complete = false;        // false: keep_going ended it, and there is no text
  std::string comparison = {};  // a table
  bool has_regression = false;  // a row is slower, by more than the noise of both reports
};

// Measures Engine::step, the code that answers prompts. The tokens before a depth are not computed:
// the cache holds made-up numbers for them, which takes the same time to read.
BenchReport run_bench(const BenchOptions& options);

}  // namespace dsr
