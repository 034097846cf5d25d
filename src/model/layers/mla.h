// Multi-head latent attention as a layer (DeepSeek-V2 report, section 2.1).
#pragma once

#include "model/transformer.h"

namespace dsr {

struct MlaArgs {
  const MlaWeights& weights;
  MlaCacheView kv;
  Tensor x;    // [T, D] activation: normed input
  Tensor out;  // [T, D] activation
};
void mla(Rank& rank, const Model& model, const ForwardBatch& batch, const MlaArgs& a);

}  // namespace dsr
