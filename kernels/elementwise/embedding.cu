// embedding on CUDA. Definition and shapes: ops/embedding.h.
//
// Mapping   one block per token, 16-byte chunks where rows allow it.
// Traffic   T rows of the table and of the output.
#include "ops/embedding.h"

#include "common/launch.h"
#include "common/ptx.cuh"
#include "common/rows.cuh"

namespace dsr::cuda {
namespace {

constexpr int kThreads = 256;

template <int kWidth, typename T>
__global__ __launch_bounds__(kThreads) void embedding_kernel(
    bf16* __restrict__ out, int64_t out_stride,  // [T, D]
    const int32_t* __restrict__ ids,             // [T]
    const int32_t* __restrict__ drawn,           // [R]
    const T* __restrict__ table,                 // [V, D]
    int64_t table_stride, int D) {
  wait_for_previous_kernel();
  int id = ids[blockIdx.x];
  if (id < 0) id = max(drawn[-1 - id], 0);
  const T* from = table + id * table_stride;
  bf16* to = out + blockIdx.x * out_stride;
  for (int i = threadIdx.x * kWidth; i < D; i += kThreads * kWidth) {
    float v[kWidth];
    load_floats(from + i, v);
    store_floats(to + i, v);
  }
}

}  // namespace

void embedding(Exec& exec, const EmbeddingArgs& a) {
  const int64_t T = a.out.shape[0], D = a.out.shape[1];
  with_float_type(a.table.dtype, [&](auto type) {
    using E = decltype(type);
    // Four elements at a time: 16 bytes of the widest table, 8 of an activation.
    const bool wide = rows_allow_16(a.table) && rows_allow_16(a.out);
    launch(exec, "embedding", {.grid = dim3(static_cast<unsigned>(T)), .threads = kThreads},
           wide ? embedding_kernel<4, E> : embedding_kernel<1, E>, a.out.ptr<bf16>(),
           a.out.strides[0], a.token_ids.ptr<int32_t>(), a.drawn.ptr<int32_t>(), a.table.ptr<E>(),
           a.table.strides[0], narrow(D));
  });
}

}  // namespace dsr::cuda
