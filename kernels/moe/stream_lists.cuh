// The lists of wanted experts in the stream kernels: the fetching warps make them while the others
// still multiply with the shared experts' weights.
#pragma once

#include "gemm/stream.cuh"
#include "moe/expert_lists.cuh"

namespace dsr::cuda {

// An expert's tokens in parts of kPart.
template <int kPart>
int64_t stream_lists_bytes(const ExpertsCall& c) {
  return lists_temporary_bytes(c.E) + lists_bytes<kPart>(c.T, c.K, c.E);
}

#if __CUDA_ARCH__ >= 900
// By all fetching warps, for themselves and the others.
template <int kPart>
__device__ __forceinline__ ExpertLists make_lists_for_consumers(const ExpertsCall& c,
                                                                std::byte* memory) {
  constexpr int kFetchThreads = kFetchWarps * 32;
  const ExpertLists lists = make_lists<kPart, kFetchThreads>(
      c, static_cast<int>(threadIdx.x) - kConsumers, memory + lists_temporary_bytes(c.E), memory,
      [] { wait_for_threads<2, kFetchThreads>(); });
  arrive_at_threads<3, kStreamThreads>();
  return lists;
}
// By all others.
template <int kPart>
__device__ __forceinline__ ExpertLists lists_of_producers(const ExpertsCall& c, std::byte* memory) {
  wait_for_threads<3, kStreamThreads>();
  return lists_in<kPart>(c, memory + lists_temporary_bytes(c.E));
}
#endif

}  // namespace dsr::cuda
