// silu(z) = z / (1 + e^-z), in float32.
#pragma once

namespace dsr::cuda {

__device__ __forceinline__ float silu(float z) { return z / (1.0f + expf(-z)); }

}  // namespace dsr::cuda
