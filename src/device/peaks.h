// What the device of an Exec can do at most: the ceilings that measured speeds are compared with.
#pragma once

#include "device/exec.h"

namespace dsr {

struct Peaks {
  int64_t threads = 0;     // of the host; 0: not on the host
  double bytes_per_s = 0;  // reading memory
  // Two operations each: float32 fused multiply-add; bf16 on a GPU's tensor cores, and with fast
  // math.
  double flop_per_s = 0;
  bool bf16 = false;
};

// Measures on as many threads as the backend computes with, in about a second.
Peaks measure_peaks(Exec& exec);

// What the host reads per second on as many threads as it has cores: a look of a quarter of a
// second, for an estimate.
double quick_host_bytes_per_s();

namespace cuda {
Peaks measure_peaks(Exec& exec);  // kernels/common/peaks.cu
}

}  // namespace dsr
