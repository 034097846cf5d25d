// Linear layers.
#pragma once

#include "device/exec.h"
#include "tensor/quant.h"

namespace dsr {

// out[t] = w x[t] + bias. Weights are used as stored (FP8: e4m3 times its block scale, exactly);
// products are summed in fp32 or better and rounded once, to the type of `out`.
struct LinearArgs {
  Tensor out;   // [T, N] activation, or f32 (router scores, logits, partial sums of a rank)
  Tensor x;     // [T, K] activation
  Weight w;     // [N, K]
  Tensor bias;  // [N] f32, or empty
};

// The gated half of a feed-forward layer (SwiGLU, Shazeer 2020, arXiv:2002.05202):
//
//   out[t] = silu(gate x[t]) * (up x[t]),   silu(z) = z / (1 + e^-z)
//
// gate and up stay in fp32 until their product is rounded once.
struct SwigluArgs {
  Tensor out;      // [T, F] activation
  Tensor x;        // [T, K] activation
  Weight gate_up;  // [2F, K]: F rows of gate_proj, then F rows of up_proj
};
namespace ops {
void linear(Exec& exec, const LinearArgs& a);
void swiglu(Exec& exec, const SwigluArgs& a);
}  // namespace ops
namespace ref {
void linear(Exec& exec, const LinearArgs& a);
void swiglu(Exec& exec, const SwigluArgs& a);
}  // namespace ref
namespace cuda {
void linear(Exec& exec, const LinearArgs& a);
void swiglu(Exec& exec, const SwigluArgs& a);
}  // namespace cuda
namespace cpu {
void linear(Exec& exec, const LinearArgs& a);
void swiglu(Exec& exec, const SwigluArgs& a);
}  // namespace cpu

}  // namespace dsr
