// Every call of the CUDA runtime is checked. Only for kernels/ and device/cuda_*.
#pragma once

#include <cuda_runtime.h>

#include "base/error.h"

// Throws Error(kDevice) naming the call and what CUDA says of it; further arguments are added to
// the message: CUDA_CHECK(cudaMemcpy(...), bytes, " bytes of ", name).
#define CUDA_CHECK(call, ...)                                               \
  do {                                                                      \
    const cudaError_t cuda_check_error = (call);                            \
    if (cuda_check_error != cudaSuccess)                                    \
      ::dsr::fail(::dsr::ErrorKind::kDevice, "cuda: ", #call, ": ",         \
                  cudaGetErrorString(cuda_check_error) __VA_OPT__(, " (", ) \
                      __VA_ARGS__ __VA_OPT__(, ")"));                       \
  } while (0)
