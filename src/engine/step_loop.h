// The steps of an engine, one behind the other.
//
// A GPU is not to wait while the host takes in a step's tokens and prepares the next one. So where
// the scheduler can plan it ahead, step n + 1 is started while step n runs; its token ids are what
// step n draws, taken from where it draws them to. Then the host waits for the tokens of step n.
// What step n + 1 does for requests that end with these tokens is dropped.
#pragma once

#include <deque>
#include <functional>
#include <vector>

#include "engine/scheduler.h"

namespace dsr {

// Runs steps in the order in which they are started. start() need not wait for the end of a step,
// finish() waits for that of the first one that was not finished.
struct StepRunner {
  std::function<void(const StepPlan&)> start;
  std::function<StepResult()> finish;
};

// Between two calls of step() a step may be under way, but not where the scheduler is idle.
class StepLoop {
 public:
  StepLoop(Scheduler& scheduler, StepRunner runner)
      : scheduler_(scheduler), runner_(std::move(runner)) {}

  // What the next step gives; empty when idle.
  std::vector<StepOutput> step();

 private:
  void start(StepPlan plan);
  std::vector<StepOutput> finish();

  Scheduler& scheduler_;
  StepRunner runner_;
  std::deque<StepPlan> started_;  // at most two
};

}  // namespace dsr
