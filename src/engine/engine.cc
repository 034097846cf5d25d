#include "deepseek_run/engine.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>

#include "base/error.h"
#include "base/timer.h"
#include "engine/generation_config.h"
#include "engine/memory_plan.h"
#include "engine/runner.h"
#include "engine/scheduler.h"
#include "io/checkpoint.h"
#include "io/read_source.h"
#include "model/card.h"
#include "model/random_source.h"

namespace dsr {
namespace {

constexpr int64_t kMaxSeqs = 1024;
constexpr int64_t kMaxThreads = 1024;
constexpr int64_t kMaxChunk = 1 << 16;

// Where `--device` says that a model runs.
struct DeviceChoice {
  Backend backend = Backend::kCpu;
  int cuda_device = 0;
  std::string note = {};  // why auto took the cpu although the program could use a GPU
};

DeviceChoice choose_device(const std::string& device) {
  if (device == "cpu") return {};
  if (device == "reference") return {.backend = Backend::kReference};
  if (device == "cuda") return {.backend = Backend::kCuda};
  if (device == "auto") {
    if (!cuda_devices().empty()) return {.backend = Backend::kCuda};
    return {.note = built_with_cuda() ? cuda_absence() + ": using the cpu" : ""};
  }
  constexpr std::string_view kCuda = "cuda:";
  int index = 0;
  const char* end = device.data() + device.size();
  if (device.starts_with(kCuda)) {
    const auto [rest, error] = std::from_chars(device.data() + kCuda.size(), end, index);
    if (error == std::errc() && rest == end && index >= 0)
      return {.backend = Backend::kCuda, .cuda_device = index};
  }
  fail_usage("device ", quoted(device), ", expected auto, cuda, cuda:N, cpu or reference");
}

CpuOptions cpu_options(const EngineOptions& o) {
  CpuOptions out;
  out.threads = static_cast<int>(o.threads);
  if (o.cpu_level != "auto") {
    const auto level = std::find_if(kCpuLevels.begin(), kCpuLevels.end(),
                                    [&](CpuLevel l) { return o.cpu_level == name(l); });
    if (level == kCpuLevels.end())
      fail_usage("cpu level ", quoted(o.cpu_level), ", expected auto, portable, avx2 or avx512");
    out.level = *level;
  }
  if (o.cpu_math != "exact" && o.cpu_math != "fast")
    fail_usage("cpu math ", quoted(o.cpu_math), ", expected exact or fast");
  out.math = o.cpu_math == "fast" ? CpuMath::kFast : CpuMath::kExact;
  return out;
}

CacheType cache_type_of(const std::string& type, Backend backend) {
  if (type == "auto") return backend == Backend::kCuda ? CacheType::kBF16 : CacheType::kF32;
  if (type == "f32") return CacheType::kF32;
  if (type == "bf16") return CacheType::kBF16;
  if (type == "fp8") return CacheType::kFP8;
  fail_usage("cache type ", quoted(type), ", expected auto, f32, bf16 or fp8");
}

void check_option(const char* what, int64_t value, int64_t min, int64_t max) {
  if (value < min || value > max) fail_usage(what, " is ", value, ", expected ", min, " to ", max);
}

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

using LogProbsOfRequests = std::map<RequestId, TokenLogProbs>;

// Whose row each is; of the likeliest tokens as many as that request asked for.
LogProbsOfRequests by_request(const StepPlan& plan, std::vector<TokenLogProbs> rows) {
  LogProbsOfRequests out;
  size_t next_row = 0;
  for (const Slice& slice : plan.slices) {
    const int64_t wanted = slice.request->request.sampling.logprobs;
    if (!slice.wants_logits || wanted < 0) continue;
    TokenLogProbs& row = rows.at(next_row++);
    row.top.resize(std::min(row.top.size(), static_cast<size_t>(wanted)));
    out[slice.request->id] = std::move(row);
  }
  return out;
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
      : checkpoint_(open_checkpoint(options)),
        config_(config_of(options)),
        device_(choose_device(options.device)),
        planned_(plan(options)),
        in_memory_(weights_in_memory(options)),
        runner_(planned_.runner, config_, source(), /*dry_run=*/false),
        pool_(planned_.runner.limits.n_blocks),
        scheduler_(scheduler_limits(options), pool_) {
    DSR_CHECK(runner_.memory().total_bytes() == planned_.plan.allocated_bytes(),
              runner_.memory().total_bytes(), planned_.plan.allocated_bytes());
    runner_.set_allowed(allowed_ids(options.tokenizer, config_.vocab_size));
    if (checkpoint_) checkpoint_->check_unchanged();
    info_ = {.directory = checkpoint_ ? options.model_dir : options.random->card,
             .architecture = config_.architecture,
             .device = planned_.plan.device,
             .device_note = device_.note,
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

  std::vector<StepOutput> step() {
    if (scheduler_.idle()) return {};
    const StepPlan plan = scheduler_.next();
    StepResult result;
    if (!plan.slices.empty())
      result = runner_.step(build_batch(plan, planned_.runner.limits.max_blocks));
    LogProbsOfRequests log_probs = by_request(plan, std::move(result.log_probs));
    std::vector<StepOutput> outputs = scheduler_.commit(plan, result.tokens);
    for (StepOutput& out : outputs)
      if (!out.tokens.empty() && log_probs.contains(out.request))
        out.log_probs.push_back(std::move(log_probs.at(out.request)));
    return outputs;
  }

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
  // Empty on the host.
  std::string gpu_name() const {
    if (device_.backend != Backend::kCuda) return "";
    return cuda_devices().at(static_cast<size_t>(device_.cuda_device)).name;
  }
  const ModelInfo& info() const { return info_; }
  const MemoryPlan& plan() const { return planned_.plan; }

 private:
  static std::optional<Checkpoint> open_checkpoint(const EngineOptions& o) {
    if (o.random) return std::nullopt;
    return Checkpoint::open(o.model_dir, o.warn);
  }

  ModelConfig config_of(const EngineOptions& o) const {
    if (checkpoint_) return parse_config(checkpoint_->config(), o.warn);
    return card_model(o.random->card, o.random->weights, o.random->layers, o.warn);
  }

  std::unique_ptr<WeightSource> weights_in_memory(const EngineOptions& o) const {
    if (!checkpoint_) return std::make_unique<RandomSource>(config_, o.random->seed);
    // A GPU has its own copy.
    if (o.load_mode == "read" && device_.backend != Backend::kCuda)
      return std::make_unique<ReadSource>(*checkpoint_);
    return nullptr;
  }

  const WeightSource& source() const {
    return in_memory_ ? *in_memory_ : static_cast<const WeightSource&>(*checkpoint_);
  }

  PlannedRun plan(const EngineOptions& o) const {
    if (o.load_mode != "auto" && o.load_mode != "mmap" && o.load_mode != "read")
      fail_usage("load mode ", quoted(o.load_mode), ", expected auto, mmap or read");
    check_option("max_seqs", o.max_seqs, 1, kMaxSeqs);
    check_option("chunk", o.chunk, 1, kMaxChunk);
    check_option("threads", o.threads, 0, kMaxThreads);
    check_option("context", o.ctx_size, 0, int64_t{1} << 32);
    check_option("cache_tokens", o.cache_tokens, 0, int64_t{1} << 40);
    // Random weights are made when it is known that they fit.
    std::optional<DeclaredSource> shapes;
    if (!checkpoint_) shapes.emplace(config_);
    const WeightSource& planned_source =
        shapes ? static_cast<const WeightSource&>(*shapes) : *checkpoint_;
    check_option("cuda_arch", o.cuda_arch, 0, 999);
    PlannedRun planned =
        plan_run({.backend = device_.backend,
                  .cpu = cpu_options(o),
                  .cuda = {.device = device_.cuda_device, .arch = static_cast<int>(o.cuda_arch)},
                  .cache_type = cache_type_of(o.cache_type, device_.backend),
                  .ctx_size = o.ctx_size,
                  .max_seqs = o.max_seqs,
                  .chunk = o.chunk,
                  .cache_tokens = o.cache_tokens},
                 config_, planned_source);
    const bool on_host = device_.backend != Backend::kCuda;
    planned.plan.weights_on_disk = checkpoint_.has_value() && on_host;
    planned.plan.weights_may_exceed = checkpoint_ && on_host && o.load_mode == "mmap";
    require_fit(planned.plan);
    return planned;
  }

  SchedulerLimits scheduler_limits(const EngineOptions& o) const {
    return {.max_seqs = o.max_seqs,
            .chunk = o.chunk,
            .ctx_size = planned_.plan.ctx_size,
            .eos_ids = eos_ids(config_.eos_token_ids, generation_config(), config_.vocab_size),
            .dry_breakers = dry_breakers(o.tokenizer, config_.vocab_size)};
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
  std::optional<Checkpoint> checkpoint_;  // none: random weights
  ModelConfig config_;
  DeviceChoice device_;
  PlannedRun planned_;
  std::unique_ptr<WeightSource> in_memory_;  // none: the checkpoint's files, mapped
  Runner runner_;
  BlockPool pool_;
  Scheduler scheduler_;
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
DevicePeaks Engine::measure_peaks() {
  const Peaks p = impl_->runner().measure_peaks();
  const std::string gpu = impl_->gpu_name();
  return {.threads = p.threads,
          .gb_per_s = p.bytes_per_s * 1e-9,
          .tflop_per_s = p.flop_per_s * 1e-12,
          .flop_type = p.bf16 || !gpu.empty() ? "bf16" : "float32",
          .gpu = gpu};
}

void Engine::logits(std::span<const TokenId> ids,
                    const std::function<void(int64_t, std::span<const float>)>& sink) {
  impl_->logits(ids, sink);
}

}  // namespace dsr
