// Multi-head and grouped-query attention as a layer.
#pragma once

#include "model/transformer.h"

namespace dsr {

struct GqaArgs {
  const GqaWeights& weights;
  GqaCacheView kv;
  Tensor x;    // [T, D] activation: normed input
  Tensor out;  // [T, D] activation
};
void gqa(Rank& rank, const Model& model, const ForwardBatch& batch, const GqaArgs& a);

}  // namespace dsr
