// Checkpoints of random weights in any published shape, to measure and test with.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "deepseek_run/log.h"

namespace dsr {

struct RandomCheckpointOptions {
  std::string card;       // what config.json is to say, as in models/
  std::string weights;    // bf16 or fp8; empty: as released
  int64_t layers = 0;     // 0: all of them
  uint64_t seed = 0;      // the same seed gives the same bytes
  std::string directory;  // must not exist
  // Called now and then; to give false stops.
  std::function<bool(int64_t done_bytes, int64_t total_bytes)> progress;
  WarningSink warn;
};

struct RandomCheckpoint {
  int64_t files = 0;  // of weights
  int64_t tensors = 0;
  int64_t bytes = 0;
  double seconds = 0;
  bool complete = false;  // false: stopped, and nothing is left of it
};

// Writes config.json, safetensors files of at most 5 GB (or one tensor) and their index. The
// directory appears whole or not at all. Throws Error(kUsage) if it exists, Error(kOutput) if it
// cannot be written.
RandomCheckpoint make_random_checkpoint(const RandomCheckpointOptions& options);

}  // namespace dsr
