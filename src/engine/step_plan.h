// What one step computes: a slice of each of some sequences.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/sequence.h"

namespace dsr {

struct RunningRequest;

struct Slice {
  RunningRequest* request;
  int64_t first;      // position of the first token
  int64_t count;      // tokens
  bool wants_logits;  // the slice ends with the sequence's last token
};

struct StepPlan {
  std::vector<Slice> slices;
};

}  // namespace dsr
