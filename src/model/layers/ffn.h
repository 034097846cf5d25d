// Feed-forward layers: dense SwiGLU, and a mixture of experts with shared experts (DeepSeekMoE,
// arXiv:2401.06066).
#pragma once

#include "device/communicator.h"
#include "model/weights.h"

namespace dsr {

// out = down_proj(silu(gate_proj x) * (up_proj x));  x, out [T, D] activation, out may not alias x.
void dense_ffn(Rank& rank, const FfnWeights& w, const Tensor& x, const Tensor& out);

// out = sum of the routed experts, weighted, + shared experts.
void moe_ffn(Rank& rank, const ModelConfig& c, const MoeWeights& w, const Tensor& x,
             const Tensor& out);

}  // namespace dsr
