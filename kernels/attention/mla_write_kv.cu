// mla_write_kv on CUDA. Definition and shapes: ops/mla.h.
//
// Mapping   one block per token, the row in shared memory as float32 (mla_write_row.cuh).
// Needs     rows of at most kMlaMaxWidth.
// Traffic   T rows of 2 (kv_lora_rank + rope) bytes read, and as many stored.
#include "attention/mla_write_row.cuh"

namespace dsr::cuda {
namespace {

__global__ __launch_bounds__(kMlaWriteThreads) void mla_write_kv_kernel(
    const __grid_constant__ MlaWriteParams p) {
  __shared__ float row[kMlaMaxWidth];
  __shared__ float partial_sums[32];
  write_mla_row(p, static_cast<int>(blockIdx.x), row, partial_sums);
}

}  // namespace

void mla_write_kv(Exec& exec, const MlaWriteKvArgs& a) {
  launch(exec, "mla_write_kv",
         {.grid = dim3(static_cast<unsigned>(a.kv_a.shape[0])), .threads = kMlaWriteThreads},
         mla_write_kv_kernel, mla_write_params(a));
}

}  // namespace dsr::cuda
