// Feed-forward layers: dense SwiGLU, and a mixture of experts with shared experts (DeepSeekMoE,
// arXiv:2401.06066).
#pragma once

#include "device/communicator.h"
#include "model/weights.h"
#include "ops/rms_norm.h"

namespace dsr {

// out = down_proj(silu(gate_proj x) * (up_proj x));  x, out [T, D] activation, out may not alias x.
void dense_ffn(Rank& rank, const FfnWeights& w, const Tensor& x, const Tensor& out);

// out = sum of the routed experts, weighted, + shared experts;  of norm.out, after the norm, which
// is one op with the gate. out may be norm.x.
void moe_ffn(Rank& rank, const ModelConfig& c, const MoeWeights& w, const AddRmsNormArgs& norm,
             const Tensor& out);

}  // namespace dsr
