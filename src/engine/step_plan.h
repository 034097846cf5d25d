// What one step computes, a slice of each of some sequences, and what it gives.
#pragma once

#include <cstdint>
#include <vector>

#include "deepseek_run/engine.h"
#include "engine/sequence.h"

namespace dsr {

struct RunningRequest;

struct Slice {
  RunningRequest* request;
  int64_t first;      // position of the first token
  int64_t count;      // tokens
  bool wants_logits;  // the slice ends with the sequence's last token
  // Of a step that is planned ahead, `count` is 1 and the token is the one that this row of the
  // step before draws; -1: the sequence has it.
  int32_t drawn_by = -1;
};

struct StepPlan {
  std::vector<Slice> slices;
};

struct StepResult {
  std::vector<TokenId> tokens;           // one per row of logits, -1 where one was not finite
  std::vector<TokenLogProbs> log_probs;  // one per row of HostBatch::log_prob_rows
};

}  // namespace dsr
