#include "device/peaks.h"

#include <immintrin.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/huge_memory.h"
#include "base/timer.h"

namespace dsr {
namespace {

// Several times the caches of large processors (some 300 MB), all threads together.
constexpr int64_t kReadBytes = int64_t{1} << 30;
constexpr int kRounds = 5;  // the best of them: other programs only take away

__attribute__((target("avx2"))) uint64_t read_avx2(const uint64_t* p, size_t n) {
  __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
  for (size_t i = 0; i + 16 <= n; i += 16) {
    a = _mm256_xor_si256(a, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i)));
    b = _mm256_xor_si256(b, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i + 4)));
    c = _mm256_xor_si256(c, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i + 8)));
    d = _mm256_xor_si256(d, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i + 12)));
  }
  a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
  return static_cast<uint64_t>(_mm256_extract_epi64(a, 0) ^ _mm256_extract_epi64(a, 1) ^
                               _mm256_extract_epi64(a, 2) ^ _mm256_extract_epi64(a, 3));
}

// Four places at a time, each announced well ahead: on some machines this is the faster way, and
// the one that products with four rows of weights take.
__attribute__((target("avx2"))) uint64_t read_ahead_avx2(const uint64_t* p, size_t n) {
  constexpr size_t kAhead = 512;  // words: a page of 4 KB
  const size_t stream = n / 4;
  __m256i a = _mm256_setzero_si256(), b = a;
  for (size_t i = 0; i + 8 <= stream; i += 8)
    for (size_t s = 0; s < 4; ++s) {
      const uint64_t* q = p + s * stream + i;
      __builtin_prefetch(q + kAhead);
      a = _mm256_xor_si256(a, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q)));
      b = _mm256_xor_si256(b, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + 4)));
    }
  a = _mm256_xor_si256(a, b);
  return static_cast<uint64_t>(_mm256_extract_epi64(a, 0) ^ _mm256_extract_epi64(a, 1) ^
                               _mm256_extract_epi64(a, 2) ^ _mm256_extract_epi64(a, 3));
}

uint64_t read_portable(const uint64_t* p, size_t n) {
  uint64_t a = 0, b = 0, c = 0, d = 0;
  for (size_t i = 0; i + 4 <= n; i += 4) {
    a ^= p[i];
    b ^= p[i + 1];
    c ^= p[i + 2];
    d ^= p[i + 3];
  }
  return a ^ b ^ c ^ d;
}

// Enough independent chains to hide four cycles of latency on two units.
constexpr int kChains = 12;
constexpr int64_t kFmaRounds = 2'000'000;

__attribute__((target("avx512f"))) float fma_avx512() {
  __m512 acc[kChains];
  for (__m512& a : acc) a = _mm512_set1_ps(1);
  const __m512 x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(0.001f);
  for (int64_t r = 0; r < kFmaRounds; ++r)
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) acc[c] = _mm512_fmadd_ps(acc[c], x, y);
  for (int c = 1; c < kChains; ++c) acc[0] = _mm512_add_ps(acc[0], acc[c]);
  return _mm512_cvtss_f32(acc[0]);
}

__attribute__((target("avx2,fma"))) float fma_avx2() {
  __m256 acc[kChains];
  for (__m256& a : acc) a = _mm256_set1_ps(1);
  const __m256 x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(0.001f);
  for (int64_t r = 0; r < kFmaRounds; ++r)
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) acc[c] = _mm256_fmadd_ps(acc[c], x, y);
  for (int c = 1; c < kChains; ++c) acc[0] = _mm256_add_ps(acc[0], acc[c]);
  return _mm256_cvtss_f32(acc[0]);
}

// The unit that fast math uses: two products to a lane.
__attribute__((target("avx512f,avx512bf16"))) float dot_bf16_avx512() {
  __m512 acc[kChains];
  for (__m512& a : acc) a = _mm512_set1_ps(1);
  const __m512i x = _mm512_set1_epi16(0x3f80), y = _mm512_set1_epi16(0x3b80);  // 1 and 2^-8
  for (int64_t r = 0; r < kFmaRounds; ++r)
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) acc[c] = _mm512_dpbf16_ps(acc[c], (__m512bh)x, (__m512bh)y);
  for (int c = 1; c < kChains; ++c) acc[0] = _mm512_add_ps(acc[0], acc[c]);
  return _mm512_cvtss_f32(acc[0]);
}

float mul_add_sse() {
  __m128 acc[kChains];
  for (__m128& a : acc) a = _mm_set1_ps(1);
  const __m128 x = _mm_set1_ps(0.999f), y = _mm_set1_ps(0.001f);
  for (int64_t r = 0; r < kFmaRounds; ++r)
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) acc[c] = _mm_add_ps(_mm_mul_ps(acc[c], x), y);
  for (int c = 1; c < kChains; ++c) acc[0] = _mm_add_ps(acc[0], acc[c]);
  return _mm_cvtss_f32(acc[0]);
}

using Part = std::function<void(int64_t thread)>;
using Team = std::function<void(const Part&)>;  // runs a part on each thread

double timed(const Team& team, const Part& part) {
  const Timer timer;
  team(part);
  return timer.seconds();
}

double best_seconds(const Team& team, const Part& part, int rounds = kRounds) {
  double best = timed(team, part);
  for (int r = 1; r < rounds; ++r) best = std::min(best, timed(team, part));
  return best;
}

// All of `memory`, several times.
double read_bytes_per_s(int64_t threads, const Team& team, const HugeMemory& memory, int rounds) {
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const int64_t per_thread = memory.size_bytes() / threads / 8;
  const auto words_of = [&](int64_t t) {
    return reinterpret_cast<uint64_t*>(memory.data()) + t * per_thread;
  };
  volatile uint64_t sink = 0;   // what is computed is used
  timed(team, [&](int64_t t) {  // written by the thread that reads it
    std::fill_n(words_of(t), per_thread, uint64_t{1});
  });
  std::vector<uint64_t> sums(static_cast<size_t>(threads) * 8);
  const auto best_read = [&](uint64_t (*read)(const uint64_t*, size_t)) {
    const Part part = [&](int64_t t) {
      sums[static_cast<size_t>(t) * 8] += read(words_of(t), static_cast<size_t>(per_thread));
    };
    return best_seconds(team, part, rounds);
  };
  const double seconds =
      avx2 ? std::min(best_read(read_avx2), best_read(read_ahead_avx2)) : best_read(read_portable);
  for (const uint64_t s : sums) sink = sink ^ s;
  return static_cast<double>(per_thread * 8 * threads) / seconds;
}

// bf16: of the unit that fast math uses.
double flop_per_s(int64_t threads, const Team& team, bool bf16) {
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f");
  const int64_t lanes = avx512 ? 16 : avx2 ? 8 : 4;
  volatile uint64_t sink = 0;
  std::vector<uint64_t> sums(static_cast<size_t>(threads) * 8);
  const double seconds = best_seconds(team, [&](int64_t t) {
    const float r = bf16     ? dot_bf16_avx512()
                    : avx512 ? fma_avx512()
                    : avx2   ? fma_avx2()
                             : mul_add_sse();
    sums[static_cast<size_t>(t) * 8] += r > 0 ? 1 : 0;
  });
  for (const uint64_t s : sums) sink = sink ^ s;
  return static_cast<double>(threads * kFmaRounds * kChains * lanes * (bf16 ? 4 : 2)) / seconds;
}

Peaks host_peaks(int64_t threads, const Team& team, const HugeMemory& memory, bool bf16) {
  return {.threads = threads,
          .bytes_per_s = read_bytes_per_s(threads, team, memory, kRounds),
          .flop_per_s = flop_per_s(threads, team, bf16),
          .bf16 = bf16};
}

int64_t threads_of(Exec& exec) {
  return exec.backend() == Backend::kReference ? 1 : exec.cpu().threads();
}

Team team_of(CpuContext& cpu) {
  return [&cpu](const Part& part) {
    cpu.parallel(cpu.threads(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) part(t);
    });
  };
}

Team team_of(Exec& exec) {
  if (exec.backend() == Backend::kReference) return [](const Part& part) { part(0); };
  return team_of(exec.cpu());
}

}  // namespace

double quick_host_bytes_per_s() {
  CpuContext cpu({}, /*dry_run=*/false);
  return read_bytes_per_s(cpu.threads(), team_of(cpu), HugeMemory(kReadBytes / 2), 2);
}

Peaks PeakProbe::measure(Exec& exec) {
  if (exec.backend() == Backend::kCuda) {
#ifdef DSR_HAVE_CUDA
    return cuda::measure_peaks(exec);
#else
    fail(ErrorKind::kDevice, "the peaks of ", name(exec.backend()), " cannot be measured");
#endif
  }
  const bool bf16 = exec.backend() == Backend::kCpu && exec.cpu().math() == CpuMath::kFast &&
                    exec.cpu().level() >= CpuLevel::kAvx512;
  const Peaks out = host_peaks(threads_of(exec), team_of(exec), memory(), bf16);
  memory_->offer();
  return out;
}

double PeakProbe::read_bytes_per_s(Exec& exec) {
  const double out = dsr::read_bytes_per_s(threads_of(exec), team_of(exec), memory(), /*rounds=*/2);
  memory_->offer();
  return out;
}

const HugeMemory& PeakProbe::memory() {
  if (!memory_) memory_.emplace(kReadBytes);
  return *memory_;
}

}  // namespace dsr
