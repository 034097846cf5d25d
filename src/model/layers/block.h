// One transformer block: attention, then feed-forward, each with its residual and norm.
#pragma once

#include "model/transformer.h"

namespace dsr {

struct BlockArgs {
  const BlockWeights& weights;
  Tensor next_norm;  // [D] f32: the norm that follows the block
  KvCache& kv;
  int64_t kv_layer = 0;  // the block's place in the cache
  Tensor x;              // [T, D] activation: in: normed input; out: normed output
  Tensor residual;       // [T, D] activation: read and updated
};
void block(Rank& rank, const Model& model, const ForwardBatch& batch, const BlockArgs& a);

}  // namespace dsr
