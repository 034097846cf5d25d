#include "device/cpu_context.h"

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

CpuLevel best_cpu_level() {
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
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
