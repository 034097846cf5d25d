// Whether a model fits on a number of GPUs, by arithmetic alone: the sizes are the model's, the
// split is the Shard of each weight.
#pragma once

#include <array>
#include <optional>
#include <vector>

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
  double chosen_experts = 0;       // the share of them that one token takes
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
// The same with the rest for another request.
ModelSizes resized(ModelSizes sizes, const ModelConfig& config, const WeightSource& source,
                   const SizesRequest& request);
// Compares `source`, whose data is not needed, with what `config` asks for; throws Error(kModel).
ModelSizes model_sizes(const ModelConfig& config, const WeightSource& source,
                       const SizesRequest& request);

// A token for each of `batch` sequences that have `context` tokens in the cache.
struct DecodeStep {
  int64_t batch = 1;
  double context = 0;
  int64_t n_gpus = 1;
};
// Bytes that each GPU reads for it: the weights that are touched, once, of the routed experts as
// many as tokens that are spread evenly would want; and keys.
double step_bytes(const ModelSizes& sizes, const DecodeStep& step);

// What memory bandwidth alone allows.
struct DecodeFloor {
  int64_t batch = 0;
  double bytes = 0;             // on each GPU, nothing in the cache
  double tok_per_s = 0;         // of all sequences together, nothing in the cache
  double tok_per_s_at_end = 0;  // the context full
};
struct DecodeFloors {
  double bytes_per_s = 0;              // of each GPU; 0: unknown, and so are the speeds
  std::vector<DecodeFloor> rows = {};  // 1, 8 and 64 sequences
};
DecodeFloors decode_floors(const ModelSizes& sizes, double bytes_per_s, int64_t ctx_size,
                           int64_t n_gpus);

// Of each GPU.
struct GpuPlan {
  GpuSet gpus;
  int64_t ctx_size = 0;
  int64_t max_seqs = 0;
  int64_t weight_bytes = 0;
  int64_t kv_cache_bytes = 0;
  int64_t activation_bytes = 0;
  int64_t reserve_bytes = 0;  // for workspaces, communication and the driver

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
  std::optional<GpuSet> set;        // where neither does: the least memory in all that does
};
Remedies remedies(const ModelSizes& sizes, const GpuPlan& plan);

// Of 1, 2, 4 .. 64 GPUs of one kind those with the least memory in all that hold it.
std::optional<GpuSet> smallest_gpus(const ModelSizes& sizes, int64_t ctx_size, int64_t max_seqs);

}  // namespace dsr
