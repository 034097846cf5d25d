// mla_query and mla_query_and_write on CUDA. Definitions and shapes: ops/mla.h.
//
// Mapping   a block per head, 128 columns of the latent and kTokens tokens. Eight warps share out
//           the rows of W_UK[h], a lane has four neighbouring columns; the warps' sums are added
//           from left to right. kv_b_proj is read in place, with its scales, 128 to 512 bytes of a
//           row at a time. The first block of a head also rotates q_pe.
//           Where rows are written too, the blocks of one more head do that (mla_write_row.cuh).
// Order     a warp goes through its rows in order: a function of qk_nope_head_dim alone.
// Traffic   W_UK once per 8 tokens; H * (nope + kv_lora_rank + 2 rope) * 2 bytes per token.
#include <algorithm>
#include <bit>

#include "attention/mla_write_row.cuh"
#include "gemm/plain_weight.cuh"

namespace dsr::cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * 32;
constexpr int kLaneColumns = 4, kBlockColumns = 32 * kLaneColumns;
// Rows whose loads are in flight in a lane: with one token all 16 of 128 / 8.
template <int kTokens>
inline constexpr int kRowsAtOnce = kTokens == 1 ? 16 : 8;
constexpr int kMaxNope = 512;
static_assert(kThreads == kMlaWriteThreads, "a block writes rows, or multiplies");

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
  int T, H, nope, rope, head_rows;
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
class Rotation {
 public:
  // The angles that this thread starts with, before the kernel before has ended.
  __device__ Rotation(const QueryParams& p, int first_token, int n)
      : p_(p), first_token_(first_token), n_(n * (p.rope / 2)) {
    const int i = static_cast<int>(threadIdx.x);
    if (i < n_) first_ = angle(i);
  }
  __device__ __forceinline__ void run(int64_t head) const {
    const int pairs = p_.rope / 2, i0 = static_cast<int>(threadIdx.x);
    for (int i = i0; i < n_; i += kThreads) {
      const int64_t t = first_token_ + i / pairs, pair = i % pairs;
      const bf16* from = p_.q + t * p_.q_stride + head * p_.q_head_stride + p_.nope + 2 * pair;
      bf16* to = p_.out + t * p_.out_stride + head * p_.out_head_stride + p_.layout.K + 2 * pair;
      const float even = to_float(from[0]), odd = to_float(from[1]);
      const auto [c, s] = i == i0 ? first_ : angle(i);
      to[0] = from_float<bf16>(__fsub_rn(__fmul_rn(even, c), __fmul_rn(odd, s)));
      to[1] = from_float<bf16>(__fadd_rn(__fmul_rn(odd, c), __fmul_rn(even, s)));
    }
  }

 private:
  __device__ __forceinline__ float2 angle(int i) const {
    const int pairs = p_.rope / 2, position = p_.positions[first_token_ + i / pairs];
    return make_float2(p_.cos[position * p_.cos_stride + i % pairs],
                       p_.sin[position * p_.sin_stride + i % pairs]);
  }

  const QueryParams& p_;
  const int first_token_, n_;
  float2 first_ = {};
};

// Grid: blocks of 128 columns, heads and one more where rows are written, blocks of kTokens tokens.
template <typename Rows, int kTokens>
__global__ __launch_bounds__(kThreads) void query_kernel(
    const __grid_constant__ QueryParams p, const __grid_constant__ MlaWriteParams write) {
  extern __shared__ float shared[];
  const int t0 = static_cast<int>(blockIdx.z) * kTokens;
  const int n = min(kTokens, p.T - t0);
  if (static_cast<int>(blockIdx.y) == p.H) {
    for (int j = static_cast<int>(blockIdx.x); j < n; j += static_cast<int>(gridDim.x)) {
      write_mla_row(write, t0 + j, shared + 32, shared);
      __syncthreads();  // the row has been read
    }
    return;
  }
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
  const Rotation rotation(p, t0, blockIdx.x == 0 ? n : 0);
  wait_for_previous_kernel();

  for (int k = static_cast<int>(threadIdx.x); k < p.nope; k += kThreads) {
    bf16 v[kTokens];  // all on their way before the first is stored
#pragma unroll
    for (int j = 0; j < kTokens; ++j)
      if (j < n) v[j] = p.q[(t0 + j) * p.q_stride + head * p.q_head_stride + k];
#pragma unroll
    for (int j = 0; j < kTokens; ++j) q[j * p.nope + k] = j < n ? to_float(v[j]) : 0.0f;
  }
  rotation.run(head);
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
void run(Exec& exec, const char* op, const QueryParams& p, const MlaWriteParams* write) {
  constexpr int64_t kMaxGridZ = 65535;
  const int64_t n_tiles = (p.T + kTokens - 1) / kTokens;
  DSR_CHECK(n_tiles <= kMaxGridZ, p.T);
  const int64_t product_floats = int64_t{kTokens} * p.nope + kWarps * kTokens * kBlockColumns;
  const int64_t row_floats = write != nullptr ? 32 + write->C + 2 * write->rope.half : 0;
  launch(exec, op,
         {.grid = dim3(static_cast<unsigned>((p.layout.K + kBlockColumns - 1) / kBlockColumns),
                       static_cast<unsigned>(p.H + (write != nullptr ? 1 : 0)),
                       static_cast<unsigned>(n_tiles)),
          .threads = kThreads,
          .shared_bytes = std::max(product_floats, row_floats) * 4},
         query_kernel<Rows, kTokens>, p, write != nullptr ? *write : MlaWriteParams{});
}
template <typename Rows>
void run(Exec& exec, const char* op, const QueryParams& p, const MlaWriteParams* write) {
  p.T == 1 ? run<Rows, 1>(exec, op, p, write) : run<Rows, 8>(exec, op, p, write);
}

// -1 where n is no power of two.
int log2_of(int64_t n) {
  const auto bits = static_cast<uint64_t>(n);
  return std::has_single_bit(bits) ? std::countr_zero(bits) : -1;
}

// With the rows of `write`, where there is one.
void run_query(Exec& exec, const char* op, const MlaQueryArgs& a, const MlaWriteParams* write) {
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
                         .H = narrow(H),
                         .nope = narrow(nope),
                         .rope = narrow(rope),
                         .head_rows = narrow(nope + a.v_head_dim),
                         .block_rows_shift = log2_of(a.kv_b_proj.quant.block_rows),
                         .block_columns_shift = log2_of(a.kv_b_proj.quant.block_columns)};
  const bool aligned = reinterpret_cast<uintptr_t>(w.data.data) % 8 == 0 && C % kLaneColumns == 0;
  if (aligned && w.data.dtype == DType::kBF16)
    run<Bf16Rows>(exec, op, p, write);
  else if (aligned && w.data.dtype == DType::kF8E4M3 && p.block_rows_shift >= 0 &&
           p.block_columns_shift >= 2)
    run<Fp8Rows>(exec, op, p, write);
  else
    run<AnyRows>(exec, op, p, write);
}

}  // namespace

void mla_query(Exec& exec, const MlaQueryArgs& a) { run_query(exec, "mla_query", a, nullptr); }

void mla_query_and_write(Exec& exec, const MlaQueryAndWriteArgs& a) {
  const MlaWriteParams write = mla_write_params(a.write);
  run_query(exec, "mla_query_and_write", a.query, &write);
}

}  // namespace dsr::cuda
