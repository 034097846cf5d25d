#include "ops/cpu/avx512.h"

namespace dsr::cpu {

const InnerLoops& inner_loops_avx512() {
  static constexpr InnerLoops kTable = loops::table<Avx512>();
  return kTable;
}

}  // namespace dsr::cpu
