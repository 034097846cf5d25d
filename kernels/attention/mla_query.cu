// mla_query on CUDA. Definition and shapes: ops/mla.h.
//
// Mapping   a block per head, 128 columns of the latent and kTokens tokens. Eight warps share out
//           the rows of W_UK[h], a lane has four neighbouring columns; the warps' sums are added
//           from left to right. kv_b_proj is read in place, with its scales, 128 to 512 bytes of a
//           row at a time. The first block of a head also rotates q_pe.
// Order     a warp goes through its rows in order: a function of qk_nope_head_dim alone.
// Traffic   W_UK once per 8 tokens; H * (nope + kv_lora_rank + 2 rope) * 2 bytes per token.
#include <bit>

#include "common/launch.h"
#include "common/ptx.cuh"
#include "gemm/plain_weight.cuh"
#include "ops/mla.h"

namespace dsr::cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * 32;
constexpr int kLaneColumns = 4, kBlockColumns = 32 * kLaneColumns;
// Rows whose loads are in flight in a lane: with one token all 16 of 128 / 8.
template <int kTokens>
inline constexpr int kRowsAtOnce = kTokens == 1 ? 16 : 8;
constexpr int kMaxNope = 512;

struct QueryParams {
  PlainSegment w;  // [H * (nope + v), C]
  PlainLayout layout;
  const bf16* q;
  bf16* out;
  int64_t q_stride, q_head_stride, out_stride, out_head_stride;
  const float* cos;
  const float* sin;
  int64_t cos_stride, sin_stride;
  const int* positions;
  int T, nope, rope, head_rows;
  int block_rows_shift, block_columns_shift;  // of Fp8Rows
};

// Four values of a row at a time where rows allow it, else one by one. Raw is what a load brings.
struct Fp8Rows {
  struct Raw {
    uint32_t codes;
    float scale;
  };
  __device__ static Raw load(const QueryParams& p, int row, int column) {
    const int at = (row >> p.block_rows_shift) * static_cast<int>(p.layout.scale_columns) +
                   (column >> p.block_columns_shift);
    return {*reinterpret_cast<const uint32_t*>(p.w.data + int64_t{row} * p.layout.K + column),
            p.w.scale_dtype == DType::kF32
                ? reinterpret_cast<const float*>(p.w.scales)[at]
                : to_float(reinterpret_cast<const e8m0*>(p.w.scales)[at])};
  }
  __device__ static void expand(const QueryParams&, const Raw& raw, int, int,
                                float (&out)[kLaneColumns]) {
#pragma unroll
    for (int i = 0; i < kLaneColumns; ++i)
      out[i] = to_float(e4m3{static_cast<uint8_t>(raw.codes >> (8 * i))}) * raw.scale;
  }
};
struct Bf16Rows {
  using Raw = uint2;
  __device__ static Raw load(const QueryParams& p, int row, int column) {
    return *reinterpret_cast<const uint2*>(p.w.data + (int64_t{row} * p.layout.K + column) * 2);
  }
  __device__ static void expand(const QueryParams&, const Raw& raw, int, int,
                                float (&out)[kLaneColumns]) {
    out[0] = low_bf16(raw.x), out[1] = high_bf16(raw.x);
    out[2] = low_bf16(raw.y), out[3] = high_bf16(raw.y);
  }
};
struct AnyRows {
  struct Raw {};
  __device__ static Raw load(const QueryParams&, int, int) { return {}; }
  __device__ static void expand(const QueryParams& p, const Raw&, int row, int column,
                                float (&out)[kLaneColumns]) {
#pragma unroll
    for (int i = 0; i < kLaneColumns; ++i)
      out[i] = column + i < p.layout.K ? plain_value(p.w, p.layout, row, column + i) : 0.0f;
  }
};

// q_pe of one head and n tokens, rotated; every product and sum rounded, as the definition has it.
__device__ __forceinline__ void rotate(const QueryParams& p, int64_t head, int64_t first_token,
                                       int n) {
  const int pairs = p.rope / 2;
  for (int i = static_cast<int>(threadIdx.x); i < n * pairs; i += kThreads) {
    const int64_t t = first_token + i / pairs, pair = i % pairs;
    const bf16* from = p.q + t * p.q_stride + head * p.q_head_stride + p.nope + 2 * pair;
    bf16* to = p.out + t * p.out_stride + head * p.out_head_stride + p.layout.K + 2 * pair;
    const float even = to_float(from[0]), odd = to_float(from[1]);
    const float c = p.cos[p.positions[t] * p.cos_stride + pair];
    const float s = p.sin[p.positions[t] * p.sin_stride + pair];
    to[0] = from_float<bf16>(__fsub_rn(__fmul_rn(even, c), __fmul_rn(odd, s)));
    to[1] = from_float<bf16>(__fadd_rn(__fmul_rn(odd, c), __fmul_rn(even, s)));
  }
}

// Grid: blocks of 128 columns, heads, blocks of kTokens tokens.
template <typename Rows, int kTokens>
__global__ __launch_bounds__(kThreads) void query_kernel(const __grid_constant__ QueryParams p) {
  extern __shared__ float shared[];
  float* sums = shared;                                  // [kWarps][kTokens][kBlockColumns]
  float* q = shared + kWarps * kTokens * kBlockColumns;  // [kTokens][nope]
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t head = blockIdx.y, C = p.layout.K;
  const int column = static_cast<int>(blockIdx.x) * kBlockColumns + lane * kLaneColumns;
  const int first = warp * p.nope / kWarps, end = (warp + 1) * p.nope / kWarps;
  const int head_row = static_cast<int>(blockIdx.y) * p.head_rows;
  typename Rows::Raw raw[kRowsAtOnce<kTokens>];
  const auto fetch = [&](int row) {
#pragma unroll
    for (int i = 0; i < kRowsAtOnce<kTokens>; ++i)
      if (row + i < end && column < C) raw[i] = Rows::load(p, head_row + row + i, column);
  };
  fetch(first);
  wait_for_previous_kernel();

  const int64_t t0 = int64_t{blockIdx.z} * kTokens;
  const int n = static_cast<int>(min(int64_t{kTokens}, p.T - t0));
#pragma unroll
  for (int j = 0; j < kTokens; ++j)
    for (int k = static_cast<int>(threadIdx.x); k < p.nope; k += kThreads)
      q[j * p.nope + k] =
          j < n ? to_float(p.q[(t0 + j) * p.q_stride + head * p.q_head_stride + k]) : 0.0f;
  if (blockIdx.x == 0) rotate(p, head, t0, n);
  __syncthreads();

  float acc[kTokens][kLaneColumns] = {};
  for (int row = first; row < end; row += kRowsAtOnce<kTokens>) {
    if (row > first) fetch(row);
#pragma unroll
    for (int i = 0; i < kRowsAtOnce<kTokens>; ++i) {
      if (row + i >= end || column >= C) break;
      float w[kLaneColumns];
      Rows::expand(p, raw[i], head_row + row + i, column, w);
#pragma unroll
      for (int j = 0; j < kTokens; ++j)
#pragma unroll
        for (int c = 0; c < kLaneColumns; ++c)
          acc[j][c] = fmaf(q[j * p.nope + row + i], w[c], acc[j][c]);
    }
  }
#pragma unroll
  for (int j = 0; j < kTokens; ++j)
    *reinterpret_cast<float4*>(sums + (warp * kTokens + j) * kBlockColumns + lane * kLaneColumns) =
        make_float4(acc[j][0], acc[j][1], acc[j][2], acc[j][3]);
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < n * kBlockColumns; i += kThreads) {
    const int j = i / kBlockColumns,
              c = static_cast<int>(blockIdx.x) * kBlockColumns + i % kBlockColumns;
    if (c >= C) continue;
    float sum = sums[i];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) sum += sums[w * kTokens * kBlockColumns + i];
    p.out[(t0 + j) * p.out_stride + head * p.out_head_stride + c] = from_float<bf16>(sum);
  }
}

template <typename Rows, int kTokens>
void run(Exec& exec, const QueryParams& p, int64_t H) {
  constexpr int64_t kMaxGridZ = 65535;
  const int64_t n_tiles = (p.T + kTokens - 1) / kTokens;
  DSR_CHECK(n_tiles <= kMaxGridZ, p.T);
  launch(exec, "mla_query",
         {.grid = dim3(static_cast<unsigned>((p.layout.K + kBlockColumns - 1) / kBlockColumns),
                       static_cast<unsigned>(H), static_cast<unsigned>(n_tiles)),
          .threads = kThreads,
          .shared_bytes = (int64_t{kTokens} * p.nope + kWarps * kTokens * kBlockColumns) * 4},
         query_kernel<Rows, kTokens>, p);
}
template <typename Rows>
void run(Exec& exec, const QueryParams& p, int64_t H) {
  p.T == 1 ? run<Rows, 1>(exec, p, H) : run<Rows, 8>(exec, p, H);
}

// -1 where n is no power of two.
int log2_of(int64_t n) {
  const auto bits = static_cast<uint64_t>(n);
  return std::has_single_bit(bits) ? std::countr_zero(bits) : -1;
}

}  // namespace

void mla_query(Exec& exec, const MlaQueryArgs& a) {
  const int64_t T = a.q.shape[0], H = a.q.shape[1], C = a.kv_b_proj.columns();
  const int64_t rope = a.out.shape[2] - C, nope = a.q.shape[2] - rope;
  if (a.kv_b_proj.segments.size() != 1 || nope > kMaxNope)
    fail(ErrorKind::kDevice, "mla_query: kv_b_proj ", a.kv_b_proj.text(), " with ", nope,
         " rows of keys per head; CUDA takes one segment and at most ", kMaxNope, " rows");
  const WeightSegment& w = a.kv_b_proj.segments.front();
  const QueryParams p = {.w = plain_segment(w),
                         .layout = plain_layout(a.kv_b_proj.quant, C),
                         .q = a.q.ptr<bf16>(),
                         .out = a.out.ptr<bf16>(),
                         .q_stride = a.q.strides[0],
                         .q_head_stride = a.q.strides[1],
                         .out_stride = a.out.strides[0],
                         .out_head_stride = a.out.strides[1],
                         .cos = a.rope.cos.ptr<float>(),
                         .sin = a.rope.sin.ptr<float>(),
                         .cos_stride = a.rope.cos.strides[0],
                         .sin_stride = a.rope.sin.strides[0],
                         .positions = a.positions.ptr<int>(),
                         .T = narrow(T),
                         .nope = narrow(nope),
                         .rope = narrow(rope),
                         .head_rows = narrow(nope + a.v_head_dim),
                         .block_rows_shift = log2_of(a.kv_b_proj.quant.block_rows),
                         .block_columns_shift = log2_of(a.kv_b_proj.quant.block_columns)};
  const bool aligned = reinterpret_cast<uintptr_t>(w.data.data) % 8 == 0 && C % kLaneColumns == 0;
  if (aligned && w.data.dtype == DType::kBF16)
    run<Bf16Rows>(exec, p, H);
  else if (aligned && w.data.dtype == DType::kF8E4M3 && p.block_rows_shift >= 0 &&
           p.block_columns_shift >= 2)
    run<Fp8Rows>(exec, p, H);
  else
    run<AnyRows>(exec, p, H);
}

}  // namespace dsr::cuda
