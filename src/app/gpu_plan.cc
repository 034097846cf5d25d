#include "app/gpu_plan.h"

#include <algorithm>
#include <cmath>

#include "base/math.h"
#include "engine/memory_plan.h"
#include "model/declared_source.h"
#include "model/weights.h"

namespace dsr {
namespace {

// What a GPU must have left for activations, workspaces, communication and the driver: an
// allowance. No more than the activations if those are larger.
constexpr int64_t kWorkspaceBytes = int64_t{3} << 29;  // 1.5 GiB

constexpr int64_t kMostGpus = 64;  // that a remedy names

// On the device: vectors are widened to float32, the rest stays as it is.
int64_t device_bytes(const WeightSpec& w, const SourceTensor& t) {
  return w.role == WeightRole::kVector ? w.shape[0] * size_bytes(DType::kF32) : tensor_bytes(t);
}

class Counter {
 public:
  Counter(const ModelConfig& config, const WeightSource& source)
      : config_(config), source_(source) {}

  void count(const WeightSpec& w) {
    const SourceTensor* t = source_.find(w.name);
    if (t == nullptr || w.role == WeightRole::kUnused) return;  // MTP layers may be absent
    const Part part = part_of(w.name, config_);
    add(part, part, w, device_bytes(w, *t));
    if (const SourceTensor* scales = source_.find(w.name + "_scale_inv"))
      add(part == Part::kMtp ? part : Part::kScales, part, w, tensor_bytes(*scales));
  }

  ModelSizes finish() {
    if (config_.tie_word_embeddings)  // read as the head
      out_.active.replicated += out_.part(Part::kEmbedding).total();
    out_.experts = experts_;
    if (config_.n_routed_experts > 0)
      out_.chosen_experts = static_cast<double>(config_.num_experts_per_tok) /
                            static_cast<double>(config_.n_routed_experts);
    out_.active.divided += of_chosen(experts_.divided);
    out_.active.replicated += of_chosen(experts_.replicated);
    return out_;
  }

 private:
  // `row`: where it is listed; `part`: what it belongs to.
  void add(Part row, Part part, const WeightSpec& w, int64_t bytes) {
    const auto bytes_of = [&](SharedBytes& s) -> int64_t& {
      return w.shard == Shard::kReplicated ? s.replicated : s.divided;
    };
    bytes_of(out_.parts[static_cast<size_t>(row)]) += bytes;
    if (part == Part::kExperts)
      bytes_of(experts_) += bytes;
    else if (part != Part::kEmbedding && part != Part::kMtp)
      bytes_of(out_.active) += bytes;
  }
  int64_t of_chosen(int64_t bytes) const {
    if (config_.n_routed_experts == 0) return 0;
    return bytes / config_.n_routed_experts * config_.num_experts_per_tok;
  }

  const ModelConfig& config_;
  const WeightSource& source_;
  ModelSizes out_;
  SharedBytes experts_;
};

int64_t kv_bytes_per_gpu_token(const ModelSizes& s, int64_t n_gpus) {
  if (s.n_kv_heads == 0) return s.kv_bytes_per_token;
  // With more GPUs than heads some hold the same head.
  return s.kv_bytes_per_token / s.n_kv_heads * ceil_div(s.n_kv_heads, n_gpus);
}

}  // namespace

SharedBytes ModelSizes::weights() const {
  SharedBytes sum;
  for (const SharedBytes& p : parts) {
    sum.replicated += p.replicated;
    sum.divided += p.divided;
  }
  return sum;
}

ModelSizes model_sizes_of_weights(const ModelConfig& config, const WeightSource& source) {
  Counter counter(config, source);
  ModelWeights unused;
  for_each_weight(config, /*with_mtp=*/true, unused,
                  [&](const WeightSpec& w) { counter.count(w); });
  return counter.finish();
}

ModelSizes model_sizes(const ModelConfig& config, const WeightSource& source,
                       const SizesRequest& r) {
  return resized(model_sizes_of_weights(config, source), config, source, r);
}

ModelSizes resized(ModelSizes out, const ModelConfig& config, const WeightSource& source,
                   const SizesRequest& r) {
  // A dry run of the reference backend: the cache is the same on every backend, and activations are
  // float32, an upper bound for one that keeps them in bf16.
  const PlannedRun run = plan_for_context({.backend = Backend::kReference,
                                           .cpu = {},
                                           .cache_type = r.cache_type,
                                           .ctx_size = r.ctx_size,
                                           .max_seqs = r.max_seqs,
                                           .chunk = r.chunk},
                                          config, source);
  out.n_kv_heads = config.attention == AttentionKind::kGqa ? config.num_key_value_heads : 0;
  out.kv_bytes_per_token = run.plan.kv_bytes_per_token;
  out.activation_bytes = run.plan.activation_bytes + run.plan.batch_bytes;
  return out;
}

GpuPlan plan_gpus(const ModelSizes& s, const GpuSet& gpus, int64_t ctx_size, int64_t max_seqs) {
  GpuPlan out{.gpus = gpus, .ctx_size = ctx_size, .max_seqs = max_seqs};
  out.weight_bytes = s.weights().on_each_of(gpus.count);
  out.kv_cache_bytes =
      max_seqs * round_up(ctx_size, kPageTokens) * kv_bytes_per_gpu_token(s, gpus.count);
  out.activation_bytes = s.activation_bytes;
  out.reserve_bytes = std::max<int64_t>(kWorkspaceBytes - s.activation_bytes, 0);
  return out;
}

double step_bytes(const ModelSizes& s, const DecodeStep& step) {
  double bytes = static_cast<double>(s.active.on_each_of(step.n_gpus));
  const double touched = 1 - std::pow(1 - s.chosen_experts, static_cast<double>(step.batch));
  bytes += static_cast<double>(s.experts.on_each_of(step.n_gpus)) * (touched - s.chosen_experts);
  return bytes + static_cast<double>(step.batch) * step.context *
                     static_cast<double>(kv_bytes_per_gpu_token(s, step.n_gpus));
}

DecodeFloors decode_floors(const ModelSizes& s, double bytes_per_s, int64_t ctx_size,
                           int64_t n_gpus) {
  DecodeFloors out{.bytes_per_s = bytes_per_s};
  for (const int64_t batch : {1, 8, 64}) {
    const auto speed = [&](double context) {
      return static_cast<double>(batch) * bytes_per_s / step_bytes(s, {batch, context, n_gpus});
    };
    out.rows.push_back({.batch = batch,
                        .bytes = step_bytes(s, {.batch = batch, .n_gpus = n_gpus}),
                        .tok_per_s = speed(0),
                        .tok_per_s_at_end = speed(static_cast<double>(ctx_size))});
  }
  return out;
}

Remedies remedies(const ModelSizes& s, const GpuPlan& plan) {
  Remedies out;
  const int64_t fixed = plan.total_bytes() - plan.kv_cache_bytes;
  const int64_t page = kPageTokens * plan.max_seqs * kv_bytes_per_gpu_token(s, plan.gpus.count);
  const int64_t pages = (plan.limit_bytes() - fixed) / page;
  if (plan.limit_bytes() > fixed && pages > 0) out.ctx_size = pages * kPageTokens;
  for (int64_t n = 1; n <= kMostGpus && !out.n_gpus; n *= 2)
    if (n > plan.gpus.count &&
        plan_gpus(s, {plan.gpus.gpu, n}, plan.ctx_size, plan.max_seqs).fits())
      out.n_gpus = n;
  for (const GpuModel& gpu : gpu_models())
    if (out.gpu == nullptr && gpu.memory_bytes > plan.gpus.gpu->memory_bytes &&
        plan_gpus(s, {&gpu, plan.gpus.count}, plan.ctx_size, plan.max_seqs).fits())
      out.gpu = &gpu;
  if (!out.n_gpus && out.gpu == nullptr) out.set = smallest_gpus(s, plan.ctx_size, plan.max_seqs);
  return out;
}

std::optional<GpuSet> smallest_gpus(const ModelSizes& s, int64_t ctx_size, int64_t max_seqs) {
  std::optional<GpuSet> out;
  const auto memory = [](const GpuSet& g) { return g.count * g.gpu->memory_bytes; };
  for (int64_t n = 1; n <= kMostGpus; n *= 2)
    for (const GpuModel& gpu : gpu_models()) {
      const GpuSet set{&gpu, n};
      const bool smaller = !out || memory(set) < memory(*out);
      if (smaller && plan_gpus(s, set, ctx_size, max_seqs).fits()) out = set;
    }
  return out;
}

}  // namespace dsr
