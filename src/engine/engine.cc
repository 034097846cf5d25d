#include "deepseek_run/engine.h"

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/timer.h"
#include "engine/generation_config.h"
#include "engine/planned_model.h"
#include "engine/runner.h"
#include "engine/step_loop.h"
#include "io/checkpoint.h"
#include "io/read_source.h"
#include "model/random_source.h"

namespace dsr {
namespace {

// Bit i % 32 of word i / 32 is set where id i may be sampled.
std::vector<int32_t> allowed_ids(const Tokenizer* tokenizer, int64_t vocab_size) {
  std::vector<int32_t> words(static_cast<size_t>(ceil_div(vocab_size, 32)), 0);
  for (int64_t id = 0; id < vocab_size; ++id) {
    if (tokenizer != nullptr && !tokenizer->has_entry(static_cast<TokenId>(id))) continue;
    const auto bit = static_cast<int32_t>(1u << (id % 32));
    words[static_cast<size_t>(id / 32)] |= bit;
  }
  return words;
}

}  // namespace

const char* name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return "";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kRepetition:
      return "repetition";
    case FinishReason::kError:
      return "error";
    case FinishReason::kCancelled:
      return "cancelled";
  }
  return "";
}

class Engine::Impl {
 public:
  explicit Impl(const EngineOptions& options)
      : model_(options),
        checkpoint_(model_.checkpoint()),
        config_(model_.config()),
        planned_(fitting(model_, options)),
        in_memory_(weights_in_memory(options)),
        runner_(planned_.runner, config_, source(), /*dry_run=*/false),
        pool_(planned_.runner.limits.n_blocks),
        scheduler_(scheduler_limits(options), pool_),
        steps_(scheduler_, {.start = [this](const StepPlan& plan) { start(plan); },
                            .finish = [this] { return runner_.finish(); }}) {
    DSR_CHECK(runner_.memory().total_bytes() == planned_.plan.allocated_bytes(),
              runner_.memory().total_bytes(), planned_.plan.allocated_bytes());
    runner_.set_allowed(allowed_ids(options.tokenizer, config_.vocab_size));
    if (checkpoint_) checkpoint_->check_unchanged();
    info_ = {.directory = checkpoint_ ? options.model_dir : options.random->card,
             .architecture = config_.architecture,
             .device = planned_.plan.device,
             .device_note = model_.device().note,
             .vocab_size = config_.vocab_size,
             .max_position_embeddings = config_.max_position_embeddings,
             .ctx_size = planned_.plan.ctx_size,
             .eos_ids = eos_ids(config_.eos_token_ids, generation_config(), config_.vocab_size),
             .defaults = sampling_defaults(generation_config(), config_.vocab_size, options.warn),
             .load_seconds = timer_.seconds(),
             .load_mode = !checkpoint_ ? "random"
                          : in_memory_ ? "read"
                                       : "mmap"};
  }

  RequestId submit(Request request) {
    check_sampling_params(request.sampling, config_.vocab_size);
    check_ids(request.prompt);
    return scheduler_.submit(std::move(request));
  }

  std::vector<StepOutput> step() { return steps_.step(); }

  void logits(std::span<const TokenId> ids,
              const std::function<void(int64_t, std::span<const float>)>& sink) {
    DSR_CHECK(scheduler_.idle());
    check_ids(ids);
    const auto n = static_cast<int64_t>(ids.size());
    if (n == 0) fail_usage("prompt is empty");
    if (n > info_.ctx_size)
      fail_usage("prompt ", with_commas(n), " tokens, context ", with_commas(info_.ctx_size));
    Sequence sequence(pool_);
    sequence.start_prompt(ids);
    if (!sequence.reserve(n))
      fail_usage("logits: the cache is held by kept sequences; close them first");
    const StepLimits& limits = planned_.runner.limits;
    const int64_t stride = std::min(limits.max_logit_rows, limits.max_tokens);
    for (int64_t first = 0; first < n; first += stride) {
      BatchSlice slice{sequence, first, std::min(stride, n - first), {}};
      for (int64_t i = 0; i < slice.count; ++i) slice.logit_rows.push_back(static_cast<int32_t>(i));
      HostBatch batch;
      batch.max_blocks = limits.max_blocks;
      append_slice(batch, slice);
      int64_t position = first;
      runner_.logits(batch, [&](std::span<const float> row) { sink(position++, row); });
      sequence.mark_computed(slice.count);
    }
  }

  Scheduler& scheduler() { return scheduler_; }
  Runner& runner() { return runner_; }
  std::string gpu_name() const { return model_.device().gpu_name(); }
  int64_t device_bytes_used() {
    if (model_.device().backend != Backend::kCuda) return 0;
    return planned_.plan.available_bytes - runner_.available_bytes();
  }
  const ModelInfo& info() const { return info_; }
  const MemoryPlan& plan() const { return planned_.plan; }

 private:
  static PlannedRun fitting(const PlannedModel& model, const EngineOptions& o) {
    PlannedRun planned = model.plan(o);
    require_fit(planned.plan);
    return planned;
  }

  void start(const StepPlan& plan) {
    runner_.start(build_batch(plan, planned_.runner.limits.max_blocks));
  }

  std::unique_ptr<WeightSource> weights_in_memory(const EngineOptions& o) const {
    if (!checkpoint_) return std::make_unique<RandomSource>(config_, o.random->seed);
    // A GPU has its own copy.
    if (o.load_mode == "read" && model_.device().backend != Backend::kCuda)
      return std::make_unique<ReadSource>(*checkpoint_);
    return nullptr;
  }

  const WeightSource& source() const {
    return in_memory_ ? *in_memory_ : static_cast<const WeightSource&>(*checkpoint_);
  }

  SchedulerLimits scheduler_limits(const EngineOptions& o) const {
    return {
        .max_seqs = o.max_seqs,
        .chunk = chunk_of(o.chunk, model_.device().backend),
        .ctx_size = planned_.plan.ctx_size,
        .eos_ids = eos_ids(config_.eos_token_ids, generation_config(), config_.vocab_size),
        .dry_breakers = dry_breakers(o.tokenizer, config_.vocab_size),
        // Elsewhere the host would be ahead of itself.
        .max_ahead = model_.device().backend == Backend::kCuda && !o.debug_nan ? kGraphSeqs : 0};
  }

  const Json* generation_config() const {
    if (!checkpoint_) return nullptr;
    const Json& json = checkpoint_->generation_config();
    return json.is_null() ? nullptr : &json;
  }

  void check_ids(std::span<const TokenId> ids) const {
    for (const TokenId id : ids)
      if (id < 0 || id >= config_.vocab_size)
        fail_usage("token id ", id, " is not in the vocabulary of ",
                   with_commas(config_.vocab_size));
  }

  Timer timer_;
  PlannedModel model_;
  const std::optional<Checkpoint>& checkpoint_;  // none: random weights
  const ModelConfig& config_;
  PlannedRun planned_;
  std::unique_ptr<WeightSource> in_memory_;  // none: the checkpoint's files, mapped
  Runner runner_;
  BlockPool pool_;
  Scheduler scheduler_;
  StepLoop steps_;
  ModelInfo info_;
};

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Engine::~Engine() = default;

std::unique_ptr<Engine> Engine::create(const EngineOptions& options) {
  return std::unique_ptr<Engine>(new Engine(std::make_unique<Impl>(options)));
}

const ModelInfo& Engine::info() const { return impl_->info(); }
const MemoryPlan& Engine::plan() const { return impl_->plan(); }
EngineStats Engine::stats() const { return impl_->scheduler().stats(); }
SequenceId Engine::open_sequence() { return impl_->scheduler().open_sequence(); }
void Engine::close_sequence(SequenceId id) { impl_->scheduler().close_sequence(id); }
RequestId Engine::submit(Request request) { return impl_->submit(std::move(request)); }
void Engine::cancel(RequestId id) { impl_->scheduler().cancel(id); }
bool Engine::idle() const { return impl_->scheduler().idle(); }
std::vector<StepOutput> Engine::step() { return impl_->step(); }
void Engine::fill_cache() { impl_->runner().fill_cache(); }
int64_t Engine::device_bytes_used() { return impl_->device_bytes_used(); }
int64_t Engine::probe_bytes() const { return impl_->runner().probe_bytes(); }
DevicePeaks Engine::measure_peaks() {
  const Peaks p = impl_->runner().measure_peaks();
  const std::string gpu = impl_->gpu_name();
  return {.threads = p.threads,
          .gb_per_s = p.bytes_per_s * 1e-9,
          .tflop_per_s = p.flop_per_s * 1e-12,
          .flop_type = p.bf16 || !gpu.empty() ? "bf16" : "float32",
          .gpu = gpu};
}

double Engine::measure_read_gb_per_s() { return impl_->runner().read_bytes_per_s() * 1e-9; }

void Engine::logits(std::span<const TokenId> ids,
                    const std::function<void(int64_t, std::span<const float>)>& sink) {
  impl_->logits(ids, sink);
}

}  // namespace dsr
