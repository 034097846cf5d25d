// gather_rows on CUDA. Definition and shapes: ops/gather_rows.h.
//
// Mapping   one block per row, 16-byte chunks where rows allow it.
// Traffic   R rows read and written.
#include "ops/gather_rows.h"

#include "common/launch.h"
#include "common/ptx.cuh"
#include "common/rows.cuh"

namespace dsr::cuda {
namespace {

constexpr int kThreads = 256;

template <int kWidth>
__global__ __launch_bounds__(kThreads) void gather_rows_kernel(bf16* __restrict__ out,
                                                               int64_t out_stride,  // [R, D]
                                                               const bf16* __restrict__ x,
                                                               int64_t x_stride,  // [T, D]
                                                               const int32_t* __restrict__ row_ids,
                                                               int D) {  // [R]
  wait_for_previous_kernel();
  const bf16* from = x + row_ids[blockIdx.x] * x_stride;
  bf16* to = out + blockIdx.x * out_stride;
  for (int i = threadIdx.x * kWidth; i < D; i += kThreads * kWidth) {
    float v[kWidth];
    load_floats(from + i, v);
    store_floats(to + i, v);
  }
}

}  // namespace

void gather_rows(Exec& exec, const GatherRowsArgs& a) {
  const bool wide = rows_allow_16(a.x) && rows_allow_16(a.out);
  launch(exec, "gather_rows",
         {.grid = dim3(static_cast<unsigned>(a.out.shape[0])), .threads = kThreads},
         wide ? gather_rows_kernel<8> : gather_rows_kernel<1>, a.out.ptr<bf16>(), a.out.strides[0],
         a.x.ptr<bf16>(), a.x.strides[0], a.row_ids.ptr<int32_t>(), narrow(a.x.shape[1]));
}

}  // namespace dsr::cuda
