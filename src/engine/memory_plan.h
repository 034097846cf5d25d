// How much memory a model takes, found by a dry run of the rank that would hold it. What the
// definitions of the reference backend keep on the heap for the length of one op (a few rows of one
// expert or head, dequantised) is not counted.
#pragma once

#include "deepseek_run/plan.h"
#include "engine/runner.h"

namespace dsr {

// What the user asked for; 0 leaves the choice to the plan.
struct PlanRequest {
  Backend backend = Backend::kReference;
  CpuOptions cpu;
  CudaOptions cuda = {};
  CacheType cache_type = CacheType::kF32;
  int64_t ctx_size = 0;
  int64_t max_seqs = 1;
  int64_t chunk = 512;
  int64_t cache_tokens = 0;  // all sequences together
};

// The context of a plan that was not told one: the model's, but no more than this.
inline constexpr int64_t kDefaultContext = 32768;

struct PlannedRun {
  MemoryPlan plan;
  RunnerOptions runner;
};

// Chooses the context if none was asked for: the model's, at most 32768, halved while it does not
// fit and a smaller one would. Throws Error(kUsage) for a context beyond the model's. Does not
// throw if nothing fits: look at plan.fits().
PlannedRun plan_run(const PlanRequest& request, const ModelConfig& config,
                    const WeightSource& source);

// The same for r.ctx_size tokens, whether that is within the model's or not. Where the cache's size
// is left to the plan it is what max_seqs sequences of that length can fill or, if that does not
// fit, as much as does, at least one sequence's.
PlannedRun plan_for_context(const PlanRequest& request, const ModelConfig& config,
                            const WeightSource& source);

// Throws Error(kDoesNotFit) with the plan and the cheapest change that would fit.
void require_fit(const MemoryPlan& plan);

// What require_fit proposes: "-c 4096", or empty where no context would fit.
std::string fitting_context(const MemoryPlan& plan);

// Memory this process may still take, in bytes: the smaller of MemAvailable and what the cgroup
// leaves; 0 if unknown.
int64_t available_host_bytes();

}  // namespace dsr
