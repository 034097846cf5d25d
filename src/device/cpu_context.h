// How the cpu backend computes: with which instructions, and on which threads.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
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

  // Calls job(begin, end) for parts of [0, n), none of them empty, that cover it once. Each worker
  // begins with most of a share of the same size; who is done first helps with what is left of the
  // others' shares, `piece` of it or more at a time. Nobody is woken for less than `grain` of them:
  // what is less than twice that, the caller does alone and at once. Workers that are awake begin
  // sooner, and an eighth of it is enough for them. Not from two threads, not from a job.
  template <typename Job>
  void parallel(int64_t n, int64_t grain, const Job& job, int64_t piece = 1) {
    if (threads_ == 1) return job(int64_t{0}, n);
    const int64_t parts =
        std::min({int64_t{threads_}, n, (pool_->awake() ? kAwake * n : n) / grain});
    if (parts <= 1) return job(int64_t{0}, n);
    piece = std::max({piece, grain / kAwake, n / parts / kPieces});
    for (int64_t i = 0; i < parts; ++i) {
      const int64_t begin = n * i / parts, end = n * (i + 1) / parts;
      ends_[i].next.store(end_of(begin, end, piece), std::memory_order_relaxed);
      ends_[i].end = end;
    }
    pool_->run([&](int worker) {
      if (worker >= parts) return;
      const int64_t begin = n * worker / parts;
      job(begin, end_of(begin, ends_[worker].end, piece));
      for (int64_t i = 0; i < parts; ++i) {
        End& from = ends_[(worker + i) % parts];
        for (int64_t at; (at = from.next.fetch_add(piece, std::memory_order_relaxed)) < from.end;)
          job(at, std::min(at + piece, from.end));
      }
    });
  }

 private:
  static constexpr int64_t kAwake = 8;
  static constexpr int64_t kEnd = 8;      // an eighth of a share is its end, or a piece more
  static constexpr int64_t kPieces = 64;  // of a share, at most: what is waited for in the end

  // The end of a share that is still to be done.
  struct alignas(64) End {
    std::atomic<int64_t> next;
    int64_t end;
  };

  // Where the end of a share begins: at a multiple of `piece`, behind all where it has no room for
  // one.
  static int64_t end_of(int64_t begin, int64_t end, int64_t piece) {
    const int64_t n = (end - begin) / kEnd;
    return n < piece ? end : (end - n) / piece * piece;
  }

  CpuLevel level_;
  CpuMath math_;
  int threads_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<End[]> ends_;  // of each worker's share of the present job
};

}  // namespace dsr
