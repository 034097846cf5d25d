#include "app/gpu_plan.h"

#include <algorithm>

#include "base/math.h"
#include "engine/memory_plan.h"
#include "model/declared_source.h"
#include "model/weights.h"

namespace dsr {
namespace {

// What a GPU must have left for activations, workspaces, communication and the driver: an
// allowance. No more than the activations if those are larger.
constexpr int64_t kWorkspaceBytes = int64_t{3} << 29;  // 1.5 GiB

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
  ModelSizes out = model_sizes_of_weights(config, source);
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
  out.max_tokens_per_s = static_cast<double>(gpus.gpu->gb_per_s) * 1e9 /
                         static_cast<double>(s.active.on_each_of(gpus.count));
  return out;
}

Remedies remedies(const ModelSizes& s, const GpuPlan& plan) {
  constexpr int64_t kMostGpus = 64;
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
  return out;
}

}  // namespace dsr
