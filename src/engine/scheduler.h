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
  int64_t chunk = 512;   // most prompt tokens in a step
  int64_t ctx_size = 0;  // most tokens of a sequence
  std::vector<TokenId> eos_ids;
  std::vector<bool> dry_breakers = {};
  int64_t max_ahead = 0;  // most rows of a step that is planned ahead; 0: none is
};

struct RunningRequest {
  RequestId id = 0;
  Request request;
  std::optional<SamplerState> sampler = {};  // set when it is submitted
  std::shared_ptr<Sequence> sequence;        // shared with the table of kept sequences
  int64_t max_tokens = 0;                    // the sequence may grow to this
  bool cancelled = false;
  bool ended = false;
  bool started = false;   // the sequence holds the prompt; false until it is first admitted
  bool running = false;   // has a place
  bool in_step = false;   // takes part in the step that is planned
  int64_t last_turn = 0;  // the step in which its prompt was last worked on
};

// Continuous batching. Requests get a place in order of arrival, as soon as one is free and so are
// the blocks for all their tokens so far; they take more as they grow. In a step
//   - every running request whose keys are computed but for the last token decodes one token;
//   - prompts share `chunk` tokens: whoever has waited longest for a turn goes first, so that a
//     short prompt waits for one turn of each other and not for the end of a long one. A prompt is
//     cut at multiples of `chunk` from position 0, whoever its neighbours are;
//   - nothing is computed twice: a prompt takes over the blocks that are in the cache, and waits
//     while another is computing its next block.
// Where blocks run out, sequences that are kept and idle forget their keys first; then the request
// that came last gives up its place and its keys, which are computed again when its turn comes. The
// one that came first always goes on, so that every request ends.
//
// A step can be planned ahead, behind one that is not committed, where it is known but for the
// tokens: every running request draws its next one. Who ends by a token (at an end of text, by the
// loop guard, with a logit that is not finite) or is cancelled meanwhile has a row in it all the
// same. Its token is dropped, its key is not counted, and its blocks are given back when that step
// is committed: until then the row may write to the last of them.
class Scheduler {
 public:
  Scheduler(const SchedulerLimits& limits, BlockPool& pool) : limits_(limits), pool_(pool) {}

  SequenceId open_sequence();
  void close_sequence(SequenceId id);

  RequestId submit(Request request);
  void cancel(RequestId id);
  bool idle() const { return waiting_.empty() && running_.empty(); }

  // The next step; no slices if only cancelled requests are left. All steps before are committed.
  StepPlan next();
  // The step behind `before`, the only one that is not committed; no slices if it is to be planned
  // when that is.
  StepPlan next_ahead(const StepPlan& before);
  // What the step gave, in the order of planning: one token id per slice that wanted logits, in
  // order; -1 where a logit was not finite. Ends cancelled requests too.
  // `ahead` is the step behind it, if that was planned and will be committed.
  std::vector<StepOutput> commit(const StepPlan& plan, const std::vector<TokenId>& tokens,
                                 const StepPlan& ahead = {});

  const EngineStats& stats() const { return stats_; }

 private:
  void check(const Request& request) const;
  void admit_waiting();
  bool admit(RunningRequest& r);
  // Blocks that running requests still need for the tokens they have.
  int64_t promised_blocks() const;
  // Makes one sequence that no running request uses give up its keys, the oldest kept ones first.
  bool reclaim(const RunningRequest& wanted_by);
  // Blocks for the first `n` tokens, if need be at the cost of later requests.
  bool reserve_by_preemption(RunningRequest& r, int64_t n);
  void preempt(RunningRequest& r);
  const RunningRequest* first_live() const;  // null: none
  void plan_decodes(StepPlan& plan);
  void plan_prompts(StepPlan& plan);
  struct Turn {
    int64_t tokens_left;  // of the step's prompt tokens
    bool may_preempt;
  };
  bool plan_prompt(StepPlan& plan, RunningRequest& r, const Turn& turn);
  // Whoever computes the block that `r` needs next, or is to: one that is in the step, else the one
  // that has most of it, or r itself.
  RunningRequest& ahead_of(RunningRequest& r) const;
  void add_slice(StepPlan& plan, RunningRequest& r, int64_t end);
  // Appends the end of cancelled requests.
  void end_cancelled(std::vector<StepOutput>& outputs) const;
  void take_out_ended(const std::vector<StepOutput>& outputs);
  // Those that ended, but for those with a row in `ahead`, give their blocks back.
  void forget_ended(const StepPlan& ahead);
  // Appends the token to its request; says how the request ended, if it did.
  FinishReason accept(RunningRequest& r, TokenId token, StepOutput& out);

  SchedulerLimits limits_;
  BlockPool& pool_;
  std::deque<std::unique_ptr<RunningRequest>> waiting_;   // in order of arrival
  std::vector<std::unique_ptr<RunningRequest>> running_;  // in order of arrival
  std::vector<std::unique_ptr<RunningRequest>> ended_;    // with a row in a step ahead
  std::map<SequenceId, std::shared_ptr<Sequence>> kept_;
  RequestId next_request_ = 1;
  SequenceId next_sequence_ = 1;
  EngineStats stats_;
};

}  // namespace dsr
