// The ceilings of a GPU that a bench compares with: reading memory, and products on the tensor
// cores with the instruction that the kernels here use (mma.sync; wgmma of sm_90 is faster).
#include "device/peaks.h"

#include <algorithm>

#include "common/launch.h"
#include "common/ptx.cuh"
#include "common/types.cuh"

namespace dsr::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRounds = 20;
constexpr int64_t kReadBytes = int64_t{1} << 30;  // many times any L2
constexpr int kChains = 8;                        // independent products of a warp
constexpr int kSteps = 4096;

__global__ __launch_bounds__(kThreads) void read_kernel(const uint4* __restrict__ from, int64_t n,
                                                        uint32_t* sink) {
  wait_for_previous_kernel();
  constexpr int kLoads = 8;  // in flight
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  uint32_t mix = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       i + (kLoads - 1) * stride < n; i += kLoads * stride) {
    uint4 v[kLoads];
#pragma unroll
    for (int k = 0; k < kLoads; ++k) v[k] = load_once(from + i + k * stride);
#pragma unroll
    for (int k = 0; k < kLoads; ++k) mix ^= v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
  }
  if (mix == 0x12345678) *sink = mix;  // so that the loads are needed
}

__global__ __launch_bounds__(kThreads) void mma_kernel(float* sink) {
  wait_for_previous_kernel();
  const uint32_t one = 0x3f803f80u + threadIdx.x % 7;  // pairs of bf16 near 1
  const uint32_t a[4] = {one, one + 1, one + 2, one + 3};
  float d[kChains][4] = {};
  for (int i = 0; i < kSteps; ++i) {
#pragma unroll
    for (int c = 0; c < kChains; ++c) mma_bf16(d[c], a, one, one + 1);
  }
  float sum = 0;
#pragma unroll
  for (int c = 0; c < kChains; ++c) sum += d[c][0] + d[c][1] + d[c][2] + d[c][3];
  if (sum == -1) *sink = sum;
}

struct Events {
  Events() {
    CUDA_CHECK(cudaEventCreate(&begin));
    CUDA_CHECK(cudaEventCreate(&end));
  }
  ~Events() {
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
  }
  cudaEvent_t begin = nullptr, end = nullptr;
};

// Of the fastest round: other work only takes away.
template <typename Run>
double best_seconds(Exec& exec, const Run& run) {
  const Events events;
  double best = 1e9;
  for (int r = 0; r < kRounds; ++r) {
    CUDA_CHECK(cudaEventRecord(events.begin, exec.stream()));
    run();
    CUDA_CHECK(cudaEventRecord(events.end, exec.stream()));
    CUDA_CHECK(cudaEventSynchronize(events.end));
    float ms = 0;
    CUDA_CHECK(cudaEventElapsedTime(&ms, events.begin, events.end));
    best = std::min(best, static_cast<double>(ms) * 1e-3);
  }
  return best;
}

}  // namespace

Peaks measure_peaks(Exec& exec) {
  // Not of the plan: given back before the next step.
  const int64_t bytes = std::min(kReadBytes, exec.cuda().free_bytes() / 2 / 4096 * 4096);
  const Buffer buffer(exec, MemoryKind::kBatch, bytes);
  exec.fill(buffer.data(), 1, bytes);
  auto* sink = reinterpret_cast<uint32_t*>(buffer.data());
  const auto blocks = static_cast<unsigned>(exec.cuda().n_sms() * 8);
  Peaks out;
  out.bytes_per_s =
      static_cast<double>(bytes) / best_seconds(exec, [&] {
        launch(exec, "peaks: read", {.grid = dim3(blocks), .threads = kThreads}, read_kernel,
               reinterpret_cast<const uint4*>(buffer.data()), bytes / 16, sink);
      });
  const double products = static_cast<double>(blocks) * (kThreads / 32) * kSteps * kChains;
  out.flop_per_s = products * 2 * 16 * 8 * 16 / best_seconds(exec, [&] {
                     launch(exec, "peaks: mma", {.grid = dim3(blocks), .threads = kThreads},
                            mma_kernel, reinterpret_cast<float*>(sink));
                   });
  return out;
}

}  // namespace dsr::cuda
