// What the device of an Exec can do at most: the ceilings that measured speeds are compared with.
#pragma once

#include <optional>

#include "base/huge_memory.h"
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

// Measures on as many threads as the backend computes with, in about a second. What it reads of the
// host's memory is kept for the next time: a gigabyte given back makes the kernel of a virtual
// machine report it to the host, which takes a CPU's time for the next five seconds (measured: 2 %
// of the speed then). The kernel may have it when it is short of memory.
class PeakProbe {
 public:
  Peaks measure(Exec& exec);
  // Of the host alone, what it reads now: takes half a second.
  double read_bytes_per_s(Exec& exec);
  // Of this process's memory.
  int64_t held_bytes() const { return memory_ ? memory_->resident_bytes() : 0; }

 private:
  const HugeMemory& memory();

  std::optional<HugeMemory> memory_;
};

// What the host reads per second on as many threads as it has cores: a look of a quarter of a
// second, for an estimate.
double quick_host_bytes_per_s();

namespace cuda {
Peaks measure_peaks(Exec& exec);  // kernels/common/peaks.cu
}

}  // namespace dsr
