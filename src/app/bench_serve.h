// A bench like serving: requests arrive at random times, and each has its own wait.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/rng.h"
#include "deepseek_run/engine.h"

namespace dsr {

struct ServeCase {
  double rate = 0;  // requests per second; infinity: all at once
  int64_t requests = 0;
  int64_t prompt = 0, n = 0;  // tokens of a prompt and of an answer, which has at least two
  int64_t batch = 0;          // requests that run at a time; the others wait in order of arrival
};

// Seconds from the start of the run.
struct ServedRequest {
  double arrival = 0;
  std::vector<double> tokens = {};  // when each was there
};

// Percentiles lie between the two nearest values, by their distance (as NumPy's).
struct Spread {
  double mean = 0, median = 0, p90 = 0, p99 = 0;
};
Spread spread_of(std::vector<double> values);

// In seconds. What a request waits before it runs is a part of its first token's and its whole
// time.
struct Latencies {
  Spread ttft;  // time to first token, from the arrival
  Spread tpot;  // time per output token: of each request the mean after its first token
  Spread itl;   // inter-token latencies: every wait between two tokens of a request
  Spread e2e;   // from the arrival to the last token
};
Latencies latencies_of(std::span<const ServedRequest> requests);

struct ServeRow {
  std::string test = {};  // "serve512+128@4"
  ServeCase serve = {};
  std::vector<std::vector<ServedRequest>> repetitions = {};
  int64_t peak_memory_bytes = 0;

  // Of each repetition: tokens of answers per second, all requests together.
  std::vector<double> tok_per_s() const;
  // The same as one request has it on the average, its wait included.
  std::vector<double> request_tok_per_s() const;
  std::vector<ServedRequest> all_requests() const;
};
std::string serve_test(const ServeCase& c);

// A Poisson process: the times of `n` arrivals, the first at 0; the same for the same seed.
std::vector<double> arrivals(double rate, int64_t n, uint64_t seed);

// A prompt of random ids, answered greedily to its end.
Request random_request(PhiloxStream& ids, int64_t vocab_size, int64_t prompt, int64_t n);

struct ServeRun {
  ServeCase serve;
  uint64_t seed = 0;  // of the arrivals
  PhiloxStream& ids;  // of the prompts: never the same twice, or they would be in the cache
  const std::function<bool()>& keep_going;  // asked before every step; false ends the run
};
// One repetition: requests are submitted when they have arrived, between two steps. nullopt where
// keep_going ended it.
std::optional<std::vector<ServedRequest>> serve(Engine& engine, const ServeRun& run);

// What a row takes at the most: of a GPU's memory, or on the host of the process since
// reset_peak_memory, less what only measures the machine.
int64_t taken_memory_bytes(Engine& engine);

}  // namespace dsr
