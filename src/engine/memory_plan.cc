#include "engine/memory_plan.h"

#include <algorithm>
#include <fstream>
#include <limits>

#include "base/error.h"
#include "sampling/sampler_state.h"

namespace dsr {
namespace {

// Rows of logits that a step must have room for when every position is wanted (`logits`).
constexpr int64_t kLogitRows = 64;

StepLimits step_limits(const PlanRequest& r, int64_t ctx_size) {
  StepLimits l;
  l.max_seqs = r.max_seqs;
  // A part of one prompt at least, and a decode step of all others.
  l.max_tokens = std::min(r.chunk, r.max_seqs * ctx_size) + r.max_seqs - 1;
  l.max_logit_rows = std::max(r.max_seqs, std::min(kLogitRows, l.max_tokens));
  l.max_blocks = blocks_for(ctx_size);
  l.n_blocks = std::max(r.cache_tokens > 0 ? blocks_for(r.cache_tokens) : r.max_seqs * l.max_blocks,
                        l.max_blocks);
  l.max_history = r.max_seqs * ctx_size;
  l.max_biases = r.max_seqs * kMaxBiasesPerRow;
  return l;
}

// The first integer in a small file such as /sys/fs/cgroup/memory.max; -1 if there is none ("max").
int64_t integer_in(const std::string& path) {
  std::ifstream in(path);
  int64_t value = -1;
  return in >> value ? value : -1;
}

// The integer that follows `key` at the start of a line of a file; 0 if there is none.
int64_t value_of(const std::string& path, const std::string& key) {
  std::ifstream in(path);
  std::string word, rest;
  int64_t value = 0;
  while (in >> word >> value) {
    if (word == key) return value;
    std::getline(in, rest);
  }
  return 0;
}

int64_t mem_available_bytes() { return 1024 * value_of("/proc/meminfo", "MemAvailable:"); }

}  // namespace

std::string MemoryPlan::summary() const {
  std::string out =
      str("weights ", human_bytes(mapped_weight_bytes + weight_bytes), " + kv cache ",
          human_bytes(kv_cache_bytes), " + activations ",
          human_bytes(activation_bytes + batch_bytes), " = ", human_bytes(total_bytes()));
  if (available_bytes > 0) out += str(" of ", human_bytes(available_bytes), " available");
  return out;
}

int64_t available_host_bytes() {
  int64_t available = mem_available_bytes();
  const int64_t limit = integer_in("/sys/fs/cgroup/memory.max");
  const int64_t used = integer_in("/sys/fs/cgroup/memory.current");
  // The group's page cache counts as used, but the kernel gives it back before it refuses memory.
  const int64_t cache = value_of("/sys/fs/cgroup/memory.stat", "inactive_file");
  if (limit > 0 && used >= 0 && available > 0)
    available = std::min(available, std::max<int64_t>(limit - used + cache, 1));
  return available;
}

namespace {

PlannedRun plan_exactly(const PlanRequest& r, const ModelConfig& config,
                        const WeightSource& source) {
  PlannedRun out;
  out.runner = {.backend = r.backend,
                .cpu = r.cpu,
                .cuda = r.cuda,
                .cache_type = r.cache_type,
                .max_positions = r.ctx_size,
                .limits = step_limits(r, r.ctx_size)};
  Runner dry(out.runner, config, source, /*dry_run=*/true);
  const MemoryAccount& m = dry.memory();
  const bool on_gpu = r.backend == Backend::kCuda;
  out.plan = {.device = on_gpu ? str("cuda:", r.cuda.device) : name(r.backend),
              .ctx_size = r.ctx_size,
              .max_seqs = r.max_seqs,
              .cache_tokens = out.runner.limits.n_blocks * kPageTokens,
              .mapped_weight_bytes = dry.mapped_weight_bytes(),
              .weight_bytes = m.bytes(MemoryKind::kWeights),
              .kv_bytes_per_token = dry.kv_bytes_per_token(),
              .kv_cache_bytes = m.bytes(MemoryKind::kKvCache),
              .activation_bytes = m.bytes(MemoryKind::kActivations),
              .batch_bytes = m.bytes(MemoryKind::kBatch),
              .available_bytes = dry.available_bytes()};
  return out;
}

}  // namespace

PlannedRun plan_for_context(const PlanRequest& r, const ModelConfig& config,
                            const WeightSource& source) {
  PlannedRun out = plan_exactly(r, config, source);
  const MemoryPlan& p = out.plan;
  if (p.fits() || r.cache_tokens > 0 || r.max_seqs == 1) return out;
  const int64_t room = p.available_bytes - (p.total_bytes() - p.kv_cache_bytes);
  const int64_t one_sequence = round_up(r.ctx_size, kPageTokens);
  PlanRequest smaller = r;
  // A page less: sizes are rounded up to what allocations are aligned to.
  smaller.cache_tokens = room / p.kv_bytes_per_token / kPageTokens * kPageTokens - kPageTokens;
  smaller.cache_tokens = std::max(smaller.cache_tokens, one_sequence);
  return plan_exactly(smaller, config, source);
}

PlannedRun plan_run(const PlanRequest& r, const ModelConfig& config, const WeightSource& source) {
  const int64_t model_context = config.max_position_embeddings;
  if (r.ctx_size > model_context)
    fail_usage("context ", with_commas(r.ctx_size), " tokens, the model's is ",
               with_commas(model_context));
  if (r.ctx_size > 0) return plan_for_context(r, config, source);
  PlanRequest smaller = r;
  smaller.ctx_size = std::min(model_context, kDefaultContext);
  PlannedRun planned = plan_for_context(smaller, config, source);
  const auto weights_fit = [](const MemoryPlan& p) {
    return p.mapped_weight_bytes + p.weight_bytes <= p.available_bytes;
  };
  while (!planned.plan.fits() && smaller.ctx_size > kPageTokens && weights_fit(planned.plan)) {
    smaller.ctx_size = std::max(smaller.ctx_size / 2, kPageTokens);
    planned = plan_for_context(smaller, config, source);
  }
  return planned;
}

std::string fitting_context(const MemoryPlan& plan) {
  const int64_t fixed = plan.total_bytes() - plan.kv_cache_bytes;
  // The smallest cache that would do holds one sequence.
  const int64_t per_context_token = plan.kv_bytes_per_token;
  const int64_t room = plan.available_bytes - fixed;
  if (room < per_context_token * kPageTokens) return "";
  return str("-c ", room / per_context_token / kPageTokens * kPageTokens);
}

void require_fit(const MemoryPlan& plan) {
  if (plan.fits()) return;
  const std::string context = fitting_context(plan);
  std::string hint = context.empty() ? "" : "\n  try: " + context;
  if (hint.empty() && plan.weights_on_disk && plan.allocated_bytes() <= plan.available_bytes)
    hint = "\n  try: --load-mode mmap, which reads from the disk again what does not fit";
  if (hint.empty()) hint = "\n  try: deepseek-run plan, which says what would hold it";
  fail(ErrorKind::kDoesNotFit, "not enough memory on ", plan.device, " with -c ", plan.ctx_size,
       "\n  ", plan.summary(), hint);
}

}  // namespace dsr
