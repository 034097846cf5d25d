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
    case CpuLevel::kAvx512Vbmi:
      return "avx512vbmi";
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
  const bool vbmi =
      avx512 && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("gfni");
  if (vbmi) return CpuLevel::kAvx512Vbmi;
  if (avx512) return CpuLevel::kAvx512;
  return avx2 ? CpuLevel::kAvx2 : CpuLevel::kPortable;
}

bool has_bf16_dots() {
  constexpr unsigned kAvx512Bf16 = 1u << 5;  // of eax
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return best_cpu_level() >= CpuLevel::kAvx512 &&
         __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & kAvx512Bf16) != 0;
}

CpuContext::CpuContext(const CpuOptions& options, bool dry_run)
    : level_(options.level.value_or(best_cpu_level())),
      math_(options.math),
      threads_(options.threads > 0 ? options.threads : default_threads()) {
  if (level_ > best_cpu_level())
    fail(ErrorKind::kDevice, "cpu level ", name(level_),
         " is more than this machine has, which is ", name(best_cpu_level()));
  if (math_ == CpuMath::kFast && level_ >= CpuLevel::kAvx512 && !has_bf16_dots())
    fail(ErrorKind::kDevice,
         "cpu math fast: this machine has no bf16 dot products (avx512_bf16)\n"
         "  try: --cpu-level avx2, which emulates them, slowly");
  if (dry_run) return;
  pool_ = std::make_unique<ThreadPool>(threads_);
  ends_ = std::make_unique<End[]>(static_cast<size_t>(threads_));
}

}  // namespace dsr
