// How the cpu backend computes: with which instructions, and on which threads.
#pragma once

#include <array>
#include <memory>
#include <optional>

#include "base/math.h"
#include "device/thread_pool.h"

namespace dsr {

// Instruction sets, each containing the ones before it.
enum class CpuLevel {
  kPortable,    // x86-64 as it began: correct everywhere, fast nowhere
  kAvx2,        // AVX2, FMA, F16C
  kAvx512,      // F, BW, DQ, VL
  kAvx512Vbmi,  // VBMI and GFNI: of single bytes
};
inline constexpr std::array kCpuLevels = {CpuLevel::kPortable, CpuLevel::kAvx2, CpuLevel::kAvx512,
                                          CpuLevel::kAvx512Vbmi};
const char* name(CpuLevel level);  // "portable", "avx2", "avx512", "avx512vbmi"
// The best that this machine has.
CpuLevel best_cpu_level();

// How steps of many tokens multiply: the rest is exact always.
enum class CpuMath {
  kExact,  // float32
  kFast,   // both factors rounded to bf16, products added up in float32, two at a time
};
// AVX-512 BF16 beside the rest of kAvx512: what kFast is for.
bool has_bf16_dots();

struct CpuOptions {
  int threads = 0;                // 0: default_threads()
  std::optional<CpuLevel> level;  // none: the best
  CpuMath math = CpuMath::kExact;
};

// One per Exec of the cpu backend.
class CpuContext {
 public:
  // Throws Error(kDevice) for a level that the machine does not have, and for fast math at kAvx512
  // without its instructions; below, it is emulated. A dry run starts no threads.
  CpuContext(const CpuOptions& options, bool dry_run);

  CpuLevel level() const { return level_; }
  CpuMath math() const { return math_; }
  int threads() const { return threads_; }

  // Calls job(begin, end) for parts of [0, n), one to a worker, that differ in size by one at most.
  // Nobody is woken for less than `grain` of them: what is less than twice that, the caller does
  // alone. Workers that are awake begin sooner, and an eighth of it is enough for them.
  template <typename Job>
  void parallel(int64_t n, int64_t grain, const Job& job) {
    if (threads_ == 1) return job(int64_t{0}, n);
    const int64_t parts = std::min<int64_t>(threads_, (pool_->awake() ? kAwake * n : n) / grain);
    if (parts <= 1) return job(int64_t{0}, n);
    pool_->run([&](int worker) {
      if (worker < parts) job(n * worker / parts, n * (worker + 1) / parts);
    });
  }

 private:
  static constexpr int64_t kAwake = 8;

  CpuLevel level_;
  CpuMath math_;
  int threads_;
  std::unique_ptr<ThreadPool> pool_;
};

}  // namespace dsr
