// Whether a model fits on a number of GPUs, by arithmetic alone: the sizes are the model's, the
// split is the Shard of each weight.
#pragma once

#include <array>
#include <optional>

#include "app/gpus.h"
#include "app/parts.h"
#include "io/weight_source.h"
#include "tensor/kv_format.h"

namespace dsr {

// Bytes of which every GPU holds all, and bytes that are divided among them.
struct SharedBytes {
  int64_t replicated = 0;
  int64_t divided = 0;
  int64_t total() const { return replicated + divided; }
  // On each of `n` GPUs, rounded up; blocks that do not divide evenly are not looked at.
  int64_t on_each_of(int64_t n) const { return replicated + (divided + n - 1) / n; }
};

struct ModelSizes {
  std::array<SharedBytes, kParts> parts;
  SharedBytes active;  // what one token of one sequence reads: of the routed experts those that are
                       // chosen, of the embedding nothing, no MTP layer
  SharedBytes experts;             // all routed experts with their scales
  int64_t kv_bytes_per_token = 0;  // all layers
  int64_t n_kv_heads = 0;          // the cache is divided by them; 0: MLA, every GPU holds it all
  int64_t activation_bytes = 0;    // of the largest step, and its batch

  const SharedBytes& part(Part p) const { return parts[static_cast<size_t>(p)]; }
  SharedBytes weights() const;
};

struct SizesRequest {
  CacheType cache_type = CacheType::kBF16;
  int64_t ctx_size = 0;
  int64_t max_seqs = 1;
  int64_t chunk = 512;
};
// Of the weights alone, of those that `source` has.
ModelSizes model_sizes_of_weights(const ModelConfig& config, const WeightSource& source);
// Compares `source`, whose data is not needed, with what `config` asks for; throws Error(kModel).
ModelSizes model_sizes(const ModelConfig& config, const WeightSource& source,
                       const SizesRequest& request);

// Of each GPU.
struct GpuPlan {
  GpuSet gpus;
  int64_t ctx_size = 0;
  int64_t max_seqs = 0;
  int64_t weight_bytes = 0;
  int64_t kv_cache_bytes = 0;
  int64_t activation_bytes = 0;
  int64_t reserve_bytes = 0;    // for workspaces, communication and the driver
  double max_tokens_per_s = 0;  // one sequence: its weights read once per token, nothing else

  int64_t total_bytes() const {
    return weight_bytes + kv_cache_bytes + activation_bytes + reserve_bytes;
  }
  int64_t limit_bytes() const { return gpus.gpu->memory_bytes / 20 * 19; }  // 95 %
  bool fits() const { return total_bytes() <= limit_bytes(); }
};
GpuPlan plan_gpus(const ModelSizes& sizes, const GpuSet& gpus, int64_t ctx_size, int64_t max_seqs);

// One change each that would make it fit; empty where none does.
struct Remedies {
  std::optional<int64_t> ctx_size;  // the most that fits
  std::optional<int64_t> n_gpus;    // the next power of two that does
  const GpuModel* gpu = nullptr;    // the smallest one that does, of which as many
};
Remedies remedies(const ModelSizes& sizes, const GpuPlan& plan);

}  // namespace dsr
