// Which request runs when.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "deepseek_run/engine.h"
#include "engine/step_plan.h"
#include "sampling/sampler_state.h"

namespace dsr {

struct SchedulerLimits {
  int64_t max_seqs = 1;
  int64_t chunk = 512;   // most tokens of one sequence in a step
  int64_t ctx_size = 0;  // most tokens of a sequence
  std::vector<TokenId> eos_ids;
  std::vector<bool> dry_breakers = {};
};

struct RunningRequest {
  RequestId id = 0;
  Request request;
  std::optional<SamplerState> sampler = {};  // set when it is submitted
  std::shared_ptr<Sequence> sequence;        // shared with the table of kept sequences
  int64_t max_tokens = 0;                    // the sequence may grow to this
  bool cancelled = false;
};

// Continuous batching: requests are admitted in order of arrival as soon as a place and the blocks
// for their longest possible length are free, so a running request never waits for memory. Every
// running request takes part in every step: a decode step is a slice of one token, a prompt is cut
// at multiples of `chunk` from position 0.
class Scheduler {
 public:
  Scheduler(const SchedulerLimits& limits, BlockPool& pool) : limits_(limits), pool_(pool) {}

  SequenceId open_sequence();
  void close_sequence(SequenceId id);

  RequestId submit(Request request);
  void cancel(RequestId id);
  bool idle() const { return waiting_.empty() && running_.empty(); }

  // The next step; no slices if only cancelled requests are left.
  StepPlan next();
  // What the step gave: one token id per slice that wanted logits, in order; -1 where a logit was
  // not finite. Ends cancelled requests too.
  std::vector<StepOutput> commit(const StepPlan& plan, const std::vector<TokenId>& tokens);

  const EngineStats& stats() const { return stats_; }

 private:
  bool admit(RunningRequest& r);
  // Makes sequences that no running request uses give up their keys, the oldest kept ones first,
  // until `r` can be admitted.
  bool admit_by_eviction(RunningRequest& r);
  void check(const Request& request) const;
  // Appends the token to its request; says how the request ended, if it did.
  FinishReason accept(RunningRequest& r, TokenId token, StepOutput& out);

  SchedulerLimits limits_;
  BlockPool& pool_;
  std::deque<std::unique_ptr<RunningRequest>> waiting_;
  std::vector<std::unique_ptr<RunningRequest>> running_;  // in order of admission
  std::map<SequenceId, std::shared_ptr<Sequence>> kept_;
  RequestId next_request_ = 1;
  SequenceId next_sequence_ = 1;
  EngineStats stats_;
};

}  // namespace dsr
