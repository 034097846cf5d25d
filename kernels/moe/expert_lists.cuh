// Which experts are wanted, and by whom: made by every block for itself in shared memory, for at
// most 64 tokens. The alternative, a kernel of its own, costs a launch in every layer.
#pragma once

#include "gemm/skinny.cuh"
#include "moe/expert_kernels.h"

namespace dsr::cuda {

struct ExpertLists {
  int16_t* active;  // [n_active] experts, ascending
  int16_t* start;   // [n_active + 1]: where an active expert's pairs start
  int16_t* pair;    // [T * K] pairs by expert, then by token
  int16_t* token;   // [T * K]: of the pair
  float* weight;    // [T * K]: of the pair
  int n_active;
};

inline int64_t lists_bytes(int64_t T, int64_t K, int64_t E) {
  const int64_t n = T * K, shorts = E + E + 1 + 2 * n;
  return n * 4 + (shorts + 1) / 2 * 4;
}

// `temporary` holds 12 E + 8 bytes that are free until the block has returned from here.
__device__ __forceinline__ ExpertLists make_lists(const ExpertsCall& c, std::byte* memory,
                                                  std::byte* temporary) {
  const int n = c.T * c.K, tid = static_cast<int>(threadIdx.x);
  ExpertLists l;
  l.weight = reinterpret_cast<float*>(memory);
  l.pair = reinterpret_cast<int16_t*>(l.weight + n);
  l.token = l.pair + n;
  l.active = l.token + n;
  l.start = l.active + c.E;
  auto* masks = reinterpret_cast<unsigned long long*>(temporary);  // [E]: a bit per token
  int* n_active = reinterpret_cast<int*>(masks + c.E);
  int* first = n_active + 2;  // [E]: where an expert's pairs start
  const auto expert_of = [&](int p) { return c.ids[p / c.K * c.ids_stride + p % c.K]; };

  for (int e = tid; e < c.E; e += kSkinnyThreads) masks[e] = 0;
  __syncthreads();
  for (int p = tid; p < n; p += kSkinnyThreads) atomicOr(&masks[expert_of(p)], 1ull << (p / c.K));
  __syncthreads();
  if (tid < 32) {  // a lane takes a run of experts; runs are joined by a scan
    const int per_lane = (c.E + 31) / 32, e0 = tid * per_lane, e1 = min(e0 + per_lane, c.E);
    int experts = 0, pairs = 0;
    for (int e = e0; e < e1; ++e) {
      experts += masks[e] != 0;
      pairs += __popcll(masks[e]);
    }
    int experts_before = experts, pairs_before = pairs;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int a = __shfl_up_sync(0xffffffffu, experts_before, offset);
      const int b = __shfl_up_sync(0xffffffffu, pairs_before, offset);
      if (tid >= offset) {
        experts_before += a;
        pairs_before += b;
      }
    }
    if (tid == 31) {
      *n_active = experts_before;
      l.start[experts_before] = static_cast<int16_t>(pairs_before);
    }
    experts_before -= experts;
    pairs_before -= pairs;
    for (int e = e0; e < e1; ++e) {
      first[e] = pairs_before;
      if (masks[e] == 0) continue;
      l.active[experts_before] = static_cast<int16_t>(e);
      l.start[experts_before++] = static_cast<int16_t>(pairs_before);
      pairs_before += __popcll(masks[e]);
    }
  }
  __syncthreads();
  for (int p = tid; p < n; p += kSkinnyThreads) {
    const int e = expert_of(p), t = p / c.K;
    const int at = first[e] + __popcll(masks[e] & ((1ull << t) - 1));
    l.pair[at] = static_cast<int16_t>(p);
    l.token[at] = static_cast<int16_t>(t);
    l.weight[at] = c.chosen[t * c.chosen_stride + p % c.K];
  }
  l.n_active = *n_active;
  __syncthreads();
  return l;
}

// The rows of activations of an active expert's tokens; `index` says which row a pair has.
template <int kTiles, typename Index>
__device__ __forceinline__ UnitTokens<kTiles> expert_tokens(const ExpertLists& l, int a, int lane,
                                                            int64_t row_bytes, const Index& index) {
  const int start = l.start[a];
  UnitTokens<kTiles> out;
  out.n = l.start[a + 1] - start;
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    const int i = j * 8 + lane / 4;
    out.offset[j] =
        i < out.n ? static_cast<uint32_t>(index(start + i)) * static_cast<uint32_t>(row_bytes) : 0;
  }
  return out;
}

}  // namespace dsr::cuda
