// rms_norm and add_rms_norm on CUDA. Definitions and shapes: ops/rms_norm.h.
//
// Mapping   one block per token row. A thread keeps its part of the row in registers between the
//           two passes, so a row is read once and written once.
// Needs     D <= kMaxNormWidth.
// Traffic   rms_norm T * D * 4 bytes, add_rms_norm T * D * 8, and the weight. A decode row is
//           16 KB at most: launch-bound everywhere.
#include "ops/rms_norm.h"

#include "common/launch.h"
#include "common/ptx.cuh"
#include "norm/norm_row.cuh"

namespace dsr::cuda {
namespace {

// kChunks chunks of kWidth values cover the row.
template <int kWidth, int kChunks>
__global__ __launch_bounds__(kNormThreads) void rms_norm_kernel(const NormParams p) {
  __shared__ float partial_sums[kNormWarps];
  NormRow<kWidth, kChunks, (kWidth > 1 && kChunks <= 4)> row;
  row.fetch_weights(p);
  wait_for_previous_kernel();
  const int64_t t = blockIdx.x;
  const float scale = row.scale(p, sum_of_squares(row.load(p, t), partial_sums));
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    if (p.residual != nullptr) row.store(p, row.sum(c), c, p.residual + t * p.residual_stride);
    row.store(p, row.normed(p, scale, c), c, p.out + t * p.out_stride);
  }
}

void run(Exec& exec, const char* op, int64_t T, const NormParams& p, bool wide) {
  if (p.D > kMaxNormWidth)
    fail(ErrorKind::kDevice, op, ": D=", p.D, " on CUDA, at most ", kMaxNormWidth);
  // The row in as few registers as it needs.
  const int per_thread = (p.D + kNormThreads - 1) / kNormThreads;
  auto* kernel = !wide              ? rms_norm_kernel<1, kNormPerThread>
                 : per_thread <= 8  ? rms_norm_kernel<8, 1>
                 : per_thread <= 32 ? rms_norm_kernel<8, 4>
                                    : rms_norm_kernel<8, 8>;
  launch(exec, op, {.grid = dim3(static_cast<unsigned>(T)), .threads = kNormThreads}, kernel, p);
}

}  // namespace

void rms_norm(Exec& exec, const RmsNormArgs& a) {
  run(exec, "rms_norm", a.x.shape[0], norm_params(a), rows_allow_16(a.x) && rows_allow_16(a.out));
}

void add_rms_norm(Exec& exec, const AddRmsNormArgs& a) {
  run(exec, "add_rms_norm", a.x.shape[0], norm_params(a), norm_is_wide(a));
}

}  // namespace dsr::cuda
