// One way to launch a kernel: on the stream of the Exec, checked, and on sm_90 as a programmatic
// dependent of the kernel before it (see ptx.cuh: every kernel waits before it reads). In a dry run
// nothing is launched: an op runs through and has then taken its scratch.
#pragma once

#include <cuda_runtime.h>

#include "device/cuda_check.h"
#include "device/exec.h"

namespace dsr::cuda {

struct LaunchShape {
  dim3 grid;
  unsigned threads = 0;
  int64_t shared_bytes = 0;  // dynamic
  unsigned cluster = 1;      // blocks along x that run together (sm_90), at most 8
};

template <typename... Params, typename... Args>
void launch(Exec& exec, const char* kernel_name, const LaunchShape& shape,
            void (*kernel)(Params...), const Args&... args) {
  if (exec.dry_run()) return;
  const auto fail_launch = [&](cudaError_t error) {
    fail(ErrorKind::kDevice, "cuda: ", kernel_name, ": ", cudaGetErrorString(error), " (grid ",
         shape.grid.x, " x ", shape.grid.y, " x ", shape.grid.z, ", ", shape.threads, " threads, ",
         shape.shared_bytes, " bytes of shared memory)");
  };
  if (shape.shared_bytes > 48 * 1024) {  // what needs no permission
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared_bytes));
    if (error != cudaSuccess) fail_launch(error);
  }
  cudaLaunchAttribute attributes[2];
  unsigned n_attributes = 0;
  if (exec.cuda().dependent_launch()) {
    cudaLaunchAttribute& dependent = attributes[n_attributes++];
    dependent.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    dependent.val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster > 1) {
    cudaLaunchAttribute& cluster = attributes[n_attributes++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {shape.cluster, 1, 1};
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = dim3(shape.threads);
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = exec.stream();
  config.attrs = attributes;
  config.numAttrs = n_attributes;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, Params(args)...);
  if (error != cudaSuccess) fail_launch(error);
}

// A count or size as the kernel's 32-bit parameter.
inline int narrow(int64_t n) {
  DSR_CHECK(n >= 0 && n < (int64_t{1} << 31), n);
  return static_cast<int>(n);
}

}  // namespace dsr::cuda
