#include "device/cpu_context.h"

#include <cpuid.h>

#include "base/error.h"
#include "device/cpu_topology.h"

namespace dsr {

const char* name(CpuLevel level) {
  switch (level) {
    case CpuLevel::kPortable:
      return "portable";
    case CpuLevel::kAvx2:
      return "avx2";
    case CpuLevel::kAvx512:
      return "avx512";
  }
  return "?";
}

namespace {

// clang 14 has no name for it in __builtin_cpu_supports.
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

}  // namespace

CpuLevel best_cpu_level() {
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx512) return CpuLevel::kAvx512;
  return avx2 ? CpuLevel::kAvx2 : CpuLevel::kPortable;
}

CpuContext::CpuContext(const CpuOptions& options, bool dry_run)
    : level_(options.level.value_or(best_cpu_level())),
      threads_(options.threads > 0 ? options.threads : default_threads()) {
  if (level_ > best_cpu_level())
    fail(ErrorKind::kDevice, "cpu level ", name(level_),
         " is more than this machine has, which is ", name(best_cpu_level()));
  if (!dry_run) pool_ = std::make_unique<ThreadPool>(threads_);
}

}  // namespace dsr
