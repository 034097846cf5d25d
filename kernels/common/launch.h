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

// A launch of `kernel` as the driver takes it.
class LaunchConfig {
 public:
  LaunchConfig(Exec& exec, const char* kernel_name, const LaunchShape& shape, const void* kernel)
      : kernel_name_(kernel_name), shape_(shape) {
    if (shape.shared_bytes > 48 * 1024)  // what needs no permission
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shape.shared_bytes)));
    if (exec.cuda().dependent_launch()) {
      cudaLaunchAttribute& dependent = attributes_[config_.numAttrs++];
      dependent.id = cudaLaunchAttributeProgrammaticStreamSerialization;
      dependent.val.programmaticStreamSerializationAllowed = 1;
    }
    if (shape.cluster > 1) {
      cudaLaunchAttribute& cluster = attributes_[config_.numAttrs++];
      cluster.id = cudaLaunchAttributeClusterDimension;
      cluster.val.clusterDim = {shape.cluster, 1, 1};
    }
    config_.gridDim = shape.grid;
    config_.blockDim = dim3(shape.threads);
    config_.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
    config_.stream = exec.stream();
    config_.attrs = attributes_;
  }
  LaunchConfig(const LaunchConfig&) = delete;
  LaunchConfig& operator=(const LaunchConfig&) = delete;

  const cudaLaunchConfig_t* get() const { return &config_; }
  void check(cudaError_t error) const {
    if (error == cudaSuccess) return;
    fail(ErrorKind::kDevice, "cuda: ", kernel_name_, ": ", cudaGetErrorString(error), " (grid ",
         shape_.grid.x, " x ", shape_.grid.y, " x ", shape_.grid.z, ", ", shape_.threads,
         " threads, ", shape_.shared_bytes, " bytes of shared memory)");
  }

 private:
  const char* const kernel_name_;
  const LaunchShape& shape_;
  cudaLaunchAttribute attributes_[2];
  cudaLaunchConfig_t config_ = {};
};

template <typename... Params, typename... Args>
void launch(Exec& exec, const char* kernel_name, const LaunchShape& shape,
            void (*kernel)(Params...), const Args&... args) {
  if (exec.dry_run()) return;
  const LaunchConfig config(exec, kernel_name, shape, reinterpret_cast<const void*>(kernel));
  config.check(cudaLaunchKernelEx(config.get(), kernel, Params(args)...));
}

// How many clusters of this shape run at a time on a GPU that has nothing else to do; `grid` of it
// does not count.
template <typename... Params>
int64_t clusters_at_once(Exec& exec, const char* kernel_name, LaunchShape shape,
                         void (*kernel)(Params...)) {
  if (exec.dry_run()) return 1;
  shape.grid = dim3(shape.cluster);
  const LaunchConfig config(exec, kernel_name, shape, reinterpret_cast<const void*>(kernel));
  int n = 0;
  config.check(cudaOccupancyMaxActiveClusters(&n, kernel, config.get()));
  return n;
}

// A count or size as the kernel's 32-bit parameter.
inline int narrow(int64_t n) {
  DSR_CHECK(n >= 0 && n < (int64_t{1} << 31), n);
  return static_cast<int>(n);
}

}  // namespace dsr::cuda
