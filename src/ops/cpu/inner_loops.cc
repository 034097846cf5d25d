#include "ops/cpu/inner_loops.h"

namespace dsr::cpu {

const InnerLoops& inner_loops(CpuLevel level) {
  switch (level) {
    case CpuLevel::kPortable:
      break;
    case CpuLevel::kAvx2:
      return inner_loops_avx2();
    case CpuLevel::kAvx512:
      return inner_loops_avx512();
    case CpuLevel::kAvx512Vbmi:
      return inner_loops_avx512vbmi();
  }
  return inner_loops_portable();
}

}  // namespace dsr::cpu
