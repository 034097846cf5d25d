// RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467) and its fusion with the residual add.
//
//   out = x / sqrt(mean(x^2) + eps) * weight         sums in fp32 or better, rounded once
#pragma once

#include "device/exec.h"

namespace dsr {

struct RmsNormArgs {
  Tensor out;     // [T, D] activation; may alias x
  Tensor x;       // [T, D] activation
  Tensor weight;  // [D]    f32
  float eps = 0;
};

// The step between two sublayers of a pre-norm transformer:
//
//   residual += x
//   out       = rms_norm(residual) * weight          of the residual as it is stored
struct AddRmsNormArgs {
  Tensor out;       // [T, D] activation; may alias x
  Tensor residual;  // [T, D] activation; read and updated
  Tensor x;         // [T, D] activation
  Tensor weight;    // [D]    f32
  float eps = 0;
};
namespace ops {
void rms_norm(Exec& exec, const RmsNormArgs& a);
void add_rms_norm(Exec& exec, const AddRmsNormArgs& a);
}  // namespace ops
namespace ref {
void rms_norm(Exec& exec, const RmsNormArgs& a);
void add_rms_norm(Exec& exec, const AddRmsNormArgs& a);
}  // namespace ref
namespace cuda {
void rms_norm(Exec& exec, const RmsNormArgs& a);
void add_rms_norm(Exec& exec, const AddRmsNormArgs& a);
}  // namespace cuda
namespace cpu {
void add_rms_norm(Exec& exec, const AddRmsNormArgs& a);
void rms_norm(Exec& exec, const RmsNormArgs& a);
}  // namespace cpu

}  // namespace dsr
