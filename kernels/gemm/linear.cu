// linear, swiglu and mla_value on CUDA: which kernel takes a call. Definitions and shapes:
// ops/linear.h, ops/mla.h.
//
//   weight and x readable in 16-byte chunks    T <= 8    held on sm_90 where a block has registers
//                                                        for its weights, else stream; before
//                                                        sm_90 skinny: every weight byte read once
//                                              T <= 64   tiles on sm_90 where x fits in the shared
//                                                        memory of a cluster, else stream, skinny
//                                              T > 64    wide on sm_90, else tiled: on tensor cores
//                                                        in tiles
//   anything else                              plain
//
// So the order over K of a decode row does not depend on T while T <= 64.
#include "gemm/linear_kernels.h"

namespace dsr::cuda {
namespace {

using Kernel = void (*)(Exec&, const char*, const DenseProduct&);

Kernel select_linear(Exec& exec, const DenseProduct& p) {
  if (p.n_tokens > kMaxDecodeTokens) return exec.cuda().arch() >= 90 ? wide_linear : tiled_linear;
  if (exec.cuda().arch() < 90) return skinny_linear;
  if (p.n_tokens <= 8) return held_fits(exec, p) ? held_linear : stream_linear;
  return tiles_fit(exec, p) ? tiles_linear : stream_linear;
}
Kernel select_swiglu(Exec& exec, const DenseProduct& p) {
  if (p.n_tokens > kMaxDecodeTokens) return exec.cuda().arch() >= 90 ? wide_swiglu : tiled_swiglu;
  if (exec.cuda().arch() < 90) return skinny_swiglu;
  return p.n_tokens > 8 && tiles_fit(exec, p) ? tiles_swiglu : stream_swiglu;
}

}  // namespace

DenseProduct dense_product(const Tensor& out, const Tensor& x, const DenseWeight& w) {
  const int64_t T = x.shape[0], width = x.shape[x.rank() - 1];
  return {.w = w,
          .x = x.ptr<std::byte>(),
          .x_stride_bytes = x.strides[0] * 2,
          .x_group_bytes = x.rank() == 3 ? x.strides[1] * 2 : 0,
          .out = out.data,
          .out_stride = out.strides[0],
          .bias = nullptr,
          .n_tokens = narrow(T),
          .out_f32 = out.dtype == DType::kF32,
          .touch_x = T * width * 2 <= kTouchBytes};
}

bool x_allows_16(const Tensor& x) {
  if (reinterpret_cast<uintptr_t>(x.data) % 16 != 0) return false;
  for (int i = 0; i + 1 < x.rank(); ++i)
    if (x.strides[static_cast<size_t>(i)] % 8 != 0) return false;
  return x.shape[0] * x.strides[0] * 2 < (int64_t{1} << 32);  // offsets are 32 bits
}

void linear(Exec& exec, const LinearArgs& a) {
  const int64_t K = a.x.shape[1];
  std::span<const WeightSegment> rest(a.w.segments);
  int64_t column = 0;
  while (!rest.empty()) {
    int n_taken = 0;
    const auto w = x_allows_16(a.x) ? dense_weight(rest, a.w.quant, K, n_taken) : std::nullopt;
    if (!w) n_taken = 1;
    int64_t rows = 0;
    for (const WeightSegment& s : rest.first(static_cast<size_t>(n_taken))) rows += s.data.shape[0];
    const Tensor out = columns(a.out, column, rows);
    const Tensor bias = a.bias.rank() > 0 ? columns(a.bias, column, rows) : Tensor{};
    if (rows > 0 && w) {
      DenseProduct p = dense_product(out, a.x, *w);
      if (bias.rank() > 0) p.bias = bias.ptr<float>();
      select_linear(exec, p)(exec, "linear", p);
    } else if (rows > 0) {
      plain_linear(exec,
                   {.out = out, .x = a.x, .w = Weight{{rest.front()}, a.w.quant}, .bias = bias});
    }
    rest = rest.subspan(static_cast<size_t>(n_taken));
    column += rows;
  }
}

void swiglu(Exec& exec, const SwigluArgs& a) {
  if (a.out.shape[1] == 0) return;
  const auto w = x_allows_16(a.x) ? paired_weight(a.gate_up, a.x.shape[1]) : std::nullopt;
  if (!w) return plain_swiglu(exec, a);
  const DenseProduct p = dense_product(a.out, a.x, *w);
  select_swiglu(exec, p)(exec, "swiglu", p);
}

namespace {

RowGroups value_rows(const MlaValueArgs& a) {
  const int64_t v_head_dim = a.out.shape[2];
  return {.n_groups = a.out.shape[1],
          .group_rows = a.qk_nope_head_dim + v_head_dim,
          .first_row = a.qk_nope_head_dim,
          .rows = v_head_dim};
}

}  // namespace

std::optional<DenseProduct> value_product(const MlaValueArgs& a) {
  if (!x_allows_16(a.latent) || a.out.strides[1] != a.out.shape[2]) return std::nullopt;
  const auto w = grouped_weight(a.kv_b_proj, a.latent.shape[2], value_rows(a));
  if (!w) return std::nullopt;
  return dense_product(a.out, a.latent, *w);
}

void mla_value(Exec& exec, const MlaValueArgs& a) {
  const auto p = value_product(a);
  if (!p) return plain_grouped(exec, a.out, a.latent, a.kv_b_proj, value_rows(a));
  select_linear(exec, *p)(exec, "mla_value", *p);
}

}  // namespace dsr::cuda
