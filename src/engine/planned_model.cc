#include "engine/planned_model.h"

#include "base/error.h"
#include "model/card.h"
#include "model/declared_source.h"

namespace dsr {
namespace {

constexpr int64_t kMaxSeqs = 1024;
constexpr int64_t kMaxThreads = 1024;
constexpr int64_t kMaxChunk = 1 << 16;

std::optional<Checkpoint> open_checkpoint(const EngineOptions& o) {
  if (o.random) return std::nullopt;
  return Checkpoint::open(o.model_dir, o.warn);
}

void check_option(const char* what, int64_t value, int64_t min, int64_t max) {
  if (value < min || value > max) fail_usage(what, " is ", value, ", expected ", min, " to ", max);
}

}  // namespace

PlannedModel::PlannedModel(const EngineOptions& options)
    : checkpoint_(open_checkpoint(options)),
      config_(config_of(options)),
      device_(choose_device(options.device)) {}

ModelConfig PlannedModel::config_of(const EngineOptions& o) const {
  if (checkpoint_) return parse_config(checkpoint_->config(), o.warn);
  return card_model(o.random->card, o.random->weights, o.random->layers, o.warn);
}

PlannedRun PlannedModel::plan(const EngineOptions& o) const {
  if (o.load_mode != "auto" && o.load_mode != "mmap" && o.load_mode != "read")
    fail_usage("load mode ", quoted(o.load_mode), ", expected auto, mmap or read");
  check_option("max_seqs", o.max_seqs, 1, kMaxSeqs);
  check_option("chunk", o.chunk, 0, kMaxChunk);
  check_option("threads", o.threads, 0, kMaxThreads);
  check_option("context", o.ctx_size, 0, int64_t{1} << 32);
  check_option("cache_tokens", o.cache_tokens, 0, int64_t{1} << 40);
  check_option("cuda_arch", o.cuda_arch, 0, 999);
  // Random weights are made when it is known that they fit.
  std::optional<DeclaredSource> shapes;
  if (!checkpoint_) shapes.emplace(config_);
  const WeightSource& source = shapes ? static_cast<const WeightSource&>(*shapes) : *checkpoint_;
  PlannedRun planned =
      plan_run({.backend = device_.backend,
                .cpu = cpu_options(o),
                .cuda = {.device = device_.cuda_device, .arch = static_cast<int>(o.cuda_arch)},
                .cache_type = cache_type_of(o.cache_type, device_.backend),
                .ctx_size = o.ctx_size,
                .max_seqs = o.max_seqs,
                .chunk = chunk_of(o.chunk, device_.backend),
                .cache_tokens = o.cache_tokens},
               config_, source);
  planned.runner.debug_nan = o.debug_nan;
  const bool on_host = device_.backend != Backend::kCuda;
  planned.plan.weights_on_disk = checkpoint_.has_value() && on_host;
  planned.plan.weights_may_exceed = checkpoint_ && on_host && o.load_mode == "mmap";
  return planned;
}

}  // namespace dsr
