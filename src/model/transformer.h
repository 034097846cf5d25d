// The forward pass of a model.
#pragma once

#include "device/communicator.h"
#include "kv/kv_cache.h"
#include "model/config.h"
#include "model/forward_batch.h"
#include "model/rope_table.h"
#include "model/weight_loader.h"

namespace dsr {

// A model that is ready to run on one rank. Const after construction.
class Model {
 public:
  // Room for positions 0..max_positions-1. `source` outlives the model.
  Model(Exec& exec, const ModelConfig& config, const WeightSource& source, int64_t max_positions);

  const ModelConfig& config() const { return config_; }
  const ModelWeights& weights() const { return loaded_.weights(); }
  const RopeTable& rope() const { return rope_.table(); }
  int64_t source_bytes() const { return loaded_.source_bytes(); }
  float softmax_scale() const { return softmax_scale_; }
  // The cache that its layers need, the MTP layers' behind the main ones'.
  KvLayout kv_layout(CacheType type) const;

 private:
  ModelConfig config_;
  LoadedWeights loaded_;
  RopeTables rope_;
  float softmax_scale_;
};

struct ForwardOutput {
  Tensor hidden;  // [T, D] activation: after the final norm; what the MTP layers start from
  Tensor logits;  // [R, V] f32
};

// Runs the new tokens of `batch` through the main model and stores their keys in `kv`. The output
// lives in the arena: the caller holds the Scope.
ForwardOutput forward(Rank& rank, const Model& model, const ForwardBatch& batch, KvCache& kv);

struct MtpInput {
  int64_t depth = 0;  // which MTP layer
  Tensor hidden;      // [T, D] activation: ForwardOutput::hidden of the same tokens
  Tensor next_ids;    // [T] i32: the token after each token of the batch
};

// One MTP layer over the batch's tokens: logits [R, V] f32 for the token after the next one.
Tensor mtp_forward(Rank& rank, const Model& model, const ForwardBatch& batch, const MtpInput& in,
                   KvCache& kv);

}  // namespace dsr
