// mla_write_kv on CUDA. Definition and shapes: ops/mla.h.
//
// Mapping   a warp per token for the rows of released models as bf16, else a block, the row in
//           shared memory as float32 (mla_write_row.cuh).
// Needs     rows of at most kMlaMaxWidth.
// Traffic   T rows of 2 (kv_lora_rank + rope) bytes read, and as many stored.
#include "attention/mla_write_row.cuh"

namespace dsr::cuda {
namespace {

__global__ __launch_bounds__(kMlaWriteThreads) void mla_write_kv_kernel(
    const __grid_constant__ MlaWriteParams p, int n_rows) {
  __shared__ float row[kMlaMaxWidth];
  if (p.by_warp) {
    const auto t = static_cast<int>(blockIdx.x * (kMlaWriteThreads / 32) + threadIdx.x / 32);
    if (t < n_rows) write_released_row(p, t);
    return;
  }
  write_mla_row(p, static_cast<int>(blockIdx.x), row);
}

}  // namespace

void mla_write_kv(Exec& exec, const MlaWriteKvArgs& a) {
  const MlaWriteParams p = mla_write_params(a);
  const int64_t T = a.kv_a.shape[0], rows = p.by_warp ? kMlaWriteThreads / 32 : 1;  // of a block
  launch(exec, "mla_write_kv",
         {.grid = dim3(static_cast<unsigned>(ceil_div(T, rows))), .threads = kMlaWriteThreads},
         mla_write_kv_kernel, p, narrow(T));
}

}  // namespace dsr::cuda
