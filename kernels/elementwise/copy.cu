// copy on CUDA. Definition and shapes: ops/copy.h.
//
// Mapping   a thread for 16 bytes, or for one where sizes and addresses do not allow it.
// Order     kernels behind it look at what it brings before they wait for the kernel before them.
//           So it is the one that does not let the next kernel start: that starts when all blocks
//           have ended, each behind its fence.
#include "ops/copy.h"

#include "base/math.h"
#include "common/launch.h"
#include "common/ptx.cuh"

namespace dsr::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ __launch_bounds__(kThreads) void copy_kernel(T* __restrict__ out, const T* x, int n) {
  wait_and_hold_next_kernel();
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i < n) out[i] = x[i];
  __threadfence();
}

template <typename T>
void launch_copy(Exec& exec, const CopyArgs& a) {
  const int64_t n = a.x.size_bytes() / int64_t{sizeof(T)};
  const dim3 grid(static_cast<unsigned>(ceil_div(n, int64_t{kThreads})));
  launch(exec, "copy", {.grid = grid, .threads = kThreads}, copy_kernel<T>, a.out.ptr<T>(),
         a.x.ptr<T>(), narrow(n));
}

}  // namespace

void copy(Exec& exec, const CopyArgs& a) {
  const auto in_sixteens = [](const Tensor& t) {
    return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.size_bytes() % 16 == 0;
  };
  if (in_sixteens(a.x) && in_sixteens(a.out))
    launch_copy<uint4>(exec, a);
  else
    launch_copy<uint8_t>(exec, a);
}

}  // namespace dsr::cuda
