// The inner loops with AVX-512 (F, BW, DQ, VL).
#include "ops/cpu/avx512.h"
#include "ops/cpu/loops.h"

namespace dsr::cpu {

const InnerLoops& inner_loops_avx512() {
  static constexpr InnerLoops kTable = loops::table<Avx512>();
  return kTable;
}

}  // namespace dsr::cpu
