// rms_norm and add_rms_norm on CUDA. Definitions and shapes: ops/rms_norm.h.
//
// Mapping   one block per token row. A thread keeps its part of the row in registers between the
//           two passes, so a row is read once and written once.
// Needs     D <= kMaxD.
// Traffic   rms_norm T * D * 4 bytes, add_rms_norm T * D * 8, and the weight. A decode row is
//           16 KB at most: launch-bound everywhere.
#include "ops/rms_norm.h"

#include "common/launch.h"
#include "common/ptx.cuh"
#include "common/rows.cuh"

namespace dsr::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = 64;  // values of a row that a thread may hold
constexpr int64_t kMaxD = kThreads * kPerThread;

struct NormParams {
  bf16* out;       // [T, D]; may alias x
  bf16* residual;  // [T, D], or null: plain rms_norm
  const bf16* x;   // [T, D]
  const float* weight;
  int64_t out_stride, residual_stride, x_stride;
  int D;
  float eps;
};

// kChunks chunks of kWidth values cover the row.
template <int kWidth, int kChunks>
__global__ __launch_bounds__(kThreads) void rms_norm_kernel(const NormParams p) {
  static_assert(kWidth * kChunks <= kPerThread, "the row stays in registers");
  __shared__ float partial_sums[kThreads / 32];
  // Weights are fetched while the kernel before still runs; in as few registers as leave room.
  constexpr bool kEarlyWeights = kWidth > 1 && kWidth * kChunks <= 32;
  float weight[kEarlyWeights ? kChunks : 1][kWidth];
  if constexpr (kEarlyWeights) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int i = (c * kThreads + static_cast<int>(threadIdx.x)) * kWidth;
      if (i >= p.D) break;
#pragma unroll
      for (int j = 0; j < kWidth; ++j) weight[c][j] = p.weight[i + j];
    }
  }
  wait_for_previous_kernel();
  const int64_t t = blockIdx.x;
  const bf16* x = p.x + t * p.x_stride;
  bf16* residual = p.residual == nullptr ? nullptr : p.residual + t * p.residual_stride;
  float v[kChunks][kWidth];
  float sum = 0;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int i = (c * kThreads + static_cast<int>(threadIdx.x)) * kWidth;
    if (i >= p.D) break;
    load_floats(x + i, v[c]);
    if (residual != nullptr) {
      float r[kWidth];
      load_floats(residual + i, r);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) v[c][j] = to_float(from_float<bf16>(r[j] + v[c][j]));
      store_floats(residual + i, v[c]);  // exact: it was rounded just now
    }
#pragma unroll
    for (int j = 0; j < kWidth; ++j) sum += v[c][j] * v[c][j];
  }
  const float mean_square = block_sum(sum, partial_sums) / static_cast<float>(p.D);
  const float scale = 1.0f / sqrtf(mean_square + p.eps);
  bf16* out = p.out + t * p.out_stride;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int i = (c * kThreads + static_cast<int>(threadIdx.x)) * kWidth;
    if (i >= p.D) break;
    float y[kWidth];
#pragma unroll
    for (int j = 0; j < kWidth; ++j)
      y[j] = v[c][j] * scale * (kEarlyWeights ? weight[kEarlyWeights ? c : 0][j] : p.weight[i + j]);
    store_floats(out + i, y);
  }
}

void run(Exec& exec, const char* op, int64_t T, const NormParams& p, bool wide) {
  if (p.D > kMaxD) fail(ErrorKind::kDevice, op, ": D=", p.D, " on CUDA, at most ", kMaxD);
  // The row in as few registers as it needs.
  const int per_thread = (p.D + kThreads - 1) / kThreads;
  auto* kernel = !wide              ? rms_norm_kernel<1, kPerThread>
                 : per_thread <= 8  ? rms_norm_kernel<8, 1>
                 : per_thread <= 32 ? rms_norm_kernel<8, 4>
                                    : rms_norm_kernel<8, 8>;
  launch(exec, op, {.grid = dim3(static_cast<unsigned>(T)), .threads = kThreads}, kernel, p);
}

}  // namespace

void rms_norm(Exec& exec, const RmsNormArgs& a) {
  run(exec, "rms_norm", a.x.shape[0],
      {.out = a.out.ptr<bf16>(),
       .residual = nullptr,
       .x = a.x.ptr<bf16>(),
       .weight = a.weight.ptr<float>(),
       .out_stride = a.out.strides[0],
       .residual_stride = 0,
       .x_stride = a.x.strides[0],
       .D = narrow(a.x.shape[1]),
       .eps = a.eps},
      rows_allow_16(a.x) && rows_allow_16(a.out));
}

void add_rms_norm(Exec& exec, const AddRmsNormArgs& a) {
  run(exec, "add_rms_norm", a.x.shape[0],
      {.out = a.out.ptr<bf16>(),
       .residual = a.residual.ptr<bf16>(),
       .x = a.x.ptr<bf16>(),
       .weight = a.weight.ptr<float>(),
       .out_stride = a.out.strides[0],
       .residual_stride = a.residual.strides[0],
       .x_stride = a.x.strides[0],
       .D = narrow(a.x.shape[1]),
       .eps = a.eps},
      rows_allow_16(a.x) && rows_allow_16(a.out) && rows_allow_16(a.residual));
}

}  // namespace dsr::cuda
