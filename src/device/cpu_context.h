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
  // has a share of the same size, of which it takes half, then half of what is left, and so on down
  // to `piece`; who is done first helps with what is left of the others' shares in the same way. A
  // share of less than eight pieces is taken at once.
  // Nobody is woken for less than `grain` of them: what is less than twice that, the caller does
  // alone and at once. Workers that are awake begin sooner, and an eighth of it is enough for them.
  // Not from two threads, not from a job.
  template <typename Job>
  void parallel(int64_t n, int64_t grain, const Job& job, int64_t piece = 1) {
    if (threads_ == 1) return job(int64_t{0}, n);
    const int64_t parts =
        std::min({int64_t{threads_}, n, (pool_->awake() ? kAwake * n : n) / grain});
    if (parts <= 1) return job(int64_t{0}, n);
    piece = std::max(piece, grain / kAwake);
    if (n < parts * kPieces * piece) piece = n;
    for (int64_t i = 0; i < parts; ++i) shares_[i].put({n * i / parts, n * (i + 1) / parts});
    pool_->run([&](int worker) {
      if (worker >= parts) return;
      for (Range r; !(r = shares_[worker].take_first(piece)).empty();) job(r.begin, r.end);
      for (int64_t i = 1; i < parts; ++i) {
        Share& other = shares_[(worker + i) % parts];
        for (Range r; !(r = other.take_last(piece)).empty();) job(r.begin, r.end);
      }
    });
  }

 private:
  static constexpr int64_t kAwake = 8;
  static constexpr int64_t kPieces = 8;  // of a share, at least

  struct Range {
    int64_t begin, end;
    bool empty() const { return begin >= end; }
  };
  // What nobody has taken of a share: half of it at a time, cut at a multiple of `piece`, or a
  // piece. The owner takes from the front, so that it reads on where it is; who helps, from the
  // back.
  class alignas(64) Share {
   public:
    void put(const Range& r);
    Range take_first(int64_t piece);
    Range take_last(int64_t piece);

   private:
    static uint64_t pack(const Range& r);
    static Range unpack(uint64_t left) {
      return {static_cast<int64_t>(left & 0xffffffffu), static_cast<int64_t>(left >> 32)};
    }

    std::atomic<uint64_t> left_{0};  // begin | end << 32
  };

  CpuLevel level_;
  CpuMath math_;
  int threads_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Share[]> shares_;  // of each worker in the present job
};

}  // namespace dsr
