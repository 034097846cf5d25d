// linear, swiglu and mla_value for weights and activations that the fast kernels cannot read:
// float16 and float32 weights, rows that do not start at 16 bytes, blocks of unusual shape.
//
// Mapping   a warp per row of the weight and 8 tokens.
// Order     plain_dots: a function of K alone.
// Traffic   the weights once per 8 tokens, in loads of single elements.
#include <algorithm>
#include <utility>

#include "common/ptx.cuh"
#include "gemm/linear_kernels.h"
#include "gemm/plain_weight.cuh"
#include "gemm/silu.cuh"

namespace dsr::cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * 32, kTokens = 8;

struct PlainProduct {
  PlainSegment first, second;  // second: up_proj
  PlainLayout layout;
  int64_t first_row, second_row;  // of the segment
  int64_t group_rows;
  int rows, n_tokens;
  const bf16* x;
  int64_t x_stride, x_group;
  void* out;
  int64_t out_stride, out_group;
  const float* bias;
  bool out_f32;
};

// Grid: rows / 8, tokens / 8, groups.
template <bool kPaired>
__global__ __launch_bounds__(kThreads) void plain_kernel(const __grid_constant__ PlainProduct p) {
  wait_for_previous_kernel();
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (row >= p.rows) return;
  const int64_t group = blockIdx.z;
  for (int64_t t0 = int64_t{blockIdx.y} * kTokens; t0 < p.n_tokens;
       t0 += int64_t{gridDim.y} * kTokens) {
    const int n = static_cast<int>(min(int64_t{kTokens}, p.n_tokens - t0));
    const bf16* x = p.x + t0 * p.x_stride + group * p.x_group;
    float sums[kTokens], up[kTokens];
    plain_dots(p.first, p.layout, p.first_row + group * p.group_rows + row, x, p.x_stride, n, sums);
    if constexpr (kPaired) plain_dots(p.second, p.layout, p.second_row + row, x, p.x_stride, n, up);
#pragma unroll
    for (int j = 0; j < kTokens; ++j) {
      if (threadIdx.x % 32 != j || j >= n) continue;
      float value = sums[j];
      if constexpr (kPaired) value = silu(value) * up[j];
      if (p.bias != nullptr) value += p.bias[row];
      const int64_t at = (t0 + j) * p.out_stride + group * p.out_group + row;
      if (p.out_f32)
        static_cast<float*>(p.out)[at] = value;
      else
        static_cast<bf16*>(p.out)[at] = from_float<bf16>(value);
    }
  }
}

template <bool kPaired>
void run(Exec& exec, const char* op, const PlainProduct& p, int64_t n_groups) {
  constexpr int64_t kMaxGridY = 65535;
  const dim3 grid(
      static_cast<unsigned>((p.rows + kWarps - 1) / kWarps),
      static_cast<unsigned>(std::min<int64_t>((p.n_tokens + kTokens - 1) / kTokens, kMaxGridY)),
      static_cast<unsigned>(n_groups));
  launch(exec, op, {.grid = grid, .threads = kThreads}, plain_kernel<kPaired>, p);
}

PlainProduct product(const Tensor& out, const Tensor& x, const QuantScheme& quant) {
  return {.first = {},
          .second = {},
          .layout = plain_layout(quant, x.shape[x.rank() - 1]),
          .first_row = 0,
          .second_row = 0,
          .group_rows = 0,
          .rows = narrow(out.shape[out.rank() - 1]),
          .n_tokens = narrow(x.shape[0]),
          .x = x.ptr<bf16>(),
          .x_stride = x.strides[0],
          .x_group = x.rank() == 3 ? x.strides[1] : 0,
          .out = out.data,
          .out_stride = out.strides[0],
          .out_group = out.rank() == 3 ? out.strides[1] : 0,
          .bias = nullptr,
          .out_f32 = out.dtype == DType::kF32};
}

}  // namespace

// One segment.
void plain_linear(Exec& exec, const LinearArgs& a) {
  DSR_CHECK(a.w.segments.size() == 1, a.w.text());
  PlainProduct p = product(a.out, a.x, a.w.quant);
  p.first = plain_segment(a.w.segments.front());
  if (a.bias.rank() > 0) p.bias = a.bias.ptr<float>();
  run<false>(exec, "linear", p, 1);
}

// Piece by piece: a piece ends where a segment of gate_proj or of up_proj does.
void plain_swiglu(Exec& exec, const SwigluArgs& a) {
  const int64_t F = a.out.shape[1];
  const auto find = [&](int64_t row) {
    size_t s = 0;
    while (row >= a.gate_up.segments[s].data.shape[0]) row -= a.gate_up.segments[s++].data.shape[0];
    return std::pair{&a.gate_up.segments[s], row};
  };
  for (int64_t f = 0; f < F;) {
    const auto [gate, gate_row] = find(f);
    const auto [up, up_row] = find(F + f);
    const int64_t rows =
        std::min({F - f, gate->data.shape[0] - gate_row, up->data.shape[0] - up_row});
    PlainProduct p = product(columns(a.out, f, rows), a.x, a.gate_up.quant);
    p.first = plain_segment(*gate);
    p.second = plain_segment(*up);
    p.first_row = gate_row;
    p.second_row = up_row;
    run<true>(exec, "swiglu", p, 1);
    f += rows;
  }
}

void plain_grouped(Exec& exec, const Tensor& out, const Tensor& x, const Weight& w,
                   const RowGroups& groups) {
  if (w.segments.size() != 1)
    fail(ErrorKind::kDevice, "mla_value: kv_b_proj of ", w.segments.size(),
         " segments on CUDA, only one is supported");
  PlainProduct p = product(out, x, w.quant);
  p.first = plain_segment(w.segments.front());
  p.first_row = groups.first_row;
  p.group_rows = groups.group_rows;
  run<false>(exec, "mla_value", p, groups.n_groups);
}

}  // namespace dsr::cuda
