// The kernels behind linear, swiglu and mla_value, and what they are given.
#pragma once

#include "common/launch.h"
#include "gemm/dense_weight.h"
#include "ops/linear.h"
#include "ops/mla.h"

namespace dsr::cuda {

// As many tokens as the decode kernels take; the GEMMs take more.
inline constexpr int64_t kMaxDecodeTokens = 64;

// Of L1, beside two blocks' rings of weights: more activations than these would evict each other.
inline constexpr int64_t kTouchBytes = 64 * 1024;

// out[t, columns of the unit's rows] = w x[t] + bias, or silu(gate x[t]) * (up x[t]).
struct DenseProduct {
  DenseWeight w;
  const std::byte* x;  // bf16
  int64_t x_stride_bytes;
  int64_t x_group_bytes;  // from one group's activations of a token to the next's
  void* out;
  int64_t out_stride;  // elements
  const float* bias;   // or null
  int n_tokens;
  bool out_f32;
  bool touch_x;  // x fits in L1
};

// Of all tokens of x, [T, K] or [T, groups, K], without a bias.
DenseProduct dense_product(const Tensor& out, const Tensor& x, const DenseWeight& w);

// 1..64 tokens: kernels/gemm/skinny.cuh, and on sm_90 kernels/gemm/stream.cuh.
void skinny_linear(Exec& exec, const char* op, const DenseProduct& p);
void skinny_swiglu(Exec& exec, const char* op, const DenseProduct& p);
void stream_linear(Exec& exec, const char* op, const DenseProduct& p);
void stream_swiglu(Exec& exec, const char* op, const DenseProduct& p);
// 1..8 tokens on sm_90, where the weights fit in registers: kernels/gemm/held_linear_sm90.cu.
bool held_fits(Exec& exec, const DenseProduct& p);
void held_linear(Exec& exec, const char* op, const DenseProduct& p);
// Its kernel for one token and FP8, given how many units a block has and how many blocks of K of a
// unit a warp.
void held_one_row(Exec& exec, const char* op, const DenseProduct& p, int units, int per_unit);
// 9..64 tokens on sm_90, where they fit: kernels/gemm/stream_tiles.cuh.
bool tiles_fit(Exec& exec, const DenseProduct& p);
void tiles_linear(Exec& exec, const char* op, const DenseProduct& p);
void tiles_swiglu(Exec& exec, const char* op, const DenseProduct& p);
// Any number of tokens, fast from 64: kernels/gemm/tiled.cuh.
void tiled_linear(Exec& exec, const char* op, const DenseProduct& p);
void tiled_swiglu(Exec& exec, const char* op, const DenseProduct& p);
// The same on sm_90: kernels/gemm/wide.cuh.
void wide_linear(Exec& exec, const char* op, const DenseProduct& p);
void wide_swiglu(Exec& exec, const char* op, const DenseProduct& p);

// mla_value as these kernels see it; nothing where they cannot read it.
std::optional<DenseProduct> value_product(const MlaValueArgs& a);

// Whether `x` can be read in chunks of 16 bytes.
bool x_allows_16(const Tensor& x);

// Any weight and any alignment, at the speed of plain loops: kernels/gemm/plain.cu.
void plain_linear(Exec& exec, const LinearArgs& a);
void plain_swiglu(Exec& exec, const SwigluArgs& a);
// out[t, h] = rows [first_row, first_row + rows) of group h, times x[t, h].
void plain_grouped(Exec& exec, const Tensor& out, const Tensor& x, const Weight& w,
                   const RowGroups& groups);

}  // namespace dsr::cuda
