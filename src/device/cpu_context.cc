#include "device/cpu_context.h"

#include <cpuid.h>

#include <limits>

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
  shares_ = std::make_unique<Share[]>(static_cast<size_t>(threads_));
}

uint64_t CpuContext::Share::pack(const Range& r) {
  return static_cast<uint64_t>(r.begin) | static_cast<uint64_t>(r.end) << 32;
}

void CpuContext::Share::put(const Range& r) {
  DSR_CHECK(r.end <= std::numeric_limits<uint32_t>::max(), r.end);
  left_.store(pack(r), std::memory_order_relaxed);
}

CpuContext::Range CpuContext::Share::take_first(int64_t piece) {
  uint64_t now = left_.load(std::memory_order_relaxed);
  for (;;) {
    const Range r = unpack(now);
    if (r.empty()) return r;
    const int64_t half = (r.begin + r.end + 1) / 2 / piece * piece;
    const int64_t cut = half > r.begin ? half : std::min(r.end, round_up(r.begin + 1, piece));
    if (left_.compare_exchange_weak(now, pack({cut, r.end}), std::memory_order_relaxed))
      return {r.begin, cut};
  }
}

CpuContext::Range CpuContext::Share::take_last(int64_t piece) {
  uint64_t now = left_.load(std::memory_order_relaxed);
  for (;;) {
    const Range r = unpack(now);
    if (r.empty()) return r;
    const int64_t half = round_up((r.begin + r.end) / 2, piece);
    const int64_t cut = half < r.end ? half : std::max(r.begin, (r.end - 1) / piece * piece);
    if (left_.compare_exchange_weak(now, pack({r.begin, cut}), std::memory_order_relaxed))
      return {cut, r.end};
  }
}

}  // namespace dsr
