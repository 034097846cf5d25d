// How much memory a model takes, found by a dry run of the rank that would hold it.
#pragma once

#include "deepseek_run/plan.h"
#include "engine/runner.h"

namespace dsr {

// What the user asked for; 0 leaves the choice to the plan.
struct PlanRequest {
  Backend backend = Backend::kReference;
  CacheType cache_type = CacheType::kF32;
  int64_t ctx_size = 0;
  int64_t max_seqs = 1;
  int64_t chunk = 512;
};

struct PlannedRun {
  MemoryPlan plan;
  RunnerOptions runner;
};

// Chooses the context if none was asked for: the model's, at most 32768, halved while it does not
// fit. Throws Error(kUsage) for a context beyond the model's. Does not throw if nothing fits: look
// at plan.fits().
PlannedRun plan_run(const PlanRequest& request, const ModelConfig& config,
                    const WeightSource& source);

// Throws Error(kDoesNotFit) with the plan and the cheapest change that would fit.
void require_fit(const MemoryPlan& plan);

// Memory this process may still take, in bytes: the smaller of MemAvailable and what the cgroup
// leaves; 0 if unknown.
int64_t available_host_bytes();

}  // namespace dsr
