// Which experts are wanted, and by whom: made by threads of every block for itself in shared
// memory, for at most 64 tokens. The alternative, a kernel of its own, costs a launch in every
// layer.
#pragma once

#include <algorithm>

#include "moe/expert_kernels.h"

namespace dsr::cuda {

// An expert with more tokens than a kernel takes at a time is there several times, one part after
// the other: its weights are read again, from the L2 if they are still there.
struct ExpertLists {
  int16_t* active;  // [n_active] experts, ascending
  int16_t* start;   // [n_active + 1]: where an active expert's pairs start
  int16_t* pair;    // [T * K] pairs by expert, then by token
  int16_t* token;   // [T * K]: of the pair
  float* weight;    // [T * K]: of the pair
  int n_active;
};

// Parts of kPart tokens at most.
template <int kPart>
__host__ __device__ constexpr int most_active(int n_pairs, int E) {
  return (n_pairs < E ? n_pairs : E) + n_pairs / kPart;
}
template <int kPart>
int64_t lists_bytes(int T, int K, int E) {
  const int64_t n = int64_t{T} * K;
  const int64_t shorts = 2 * most_active<kPart>(T * K, E) + 1 + 2 * n;
  return (n + 1) * 4 + (shorts + 1) / 2 * 4;
}

// Where the lists of a call lie in `memory`; all but n_active.
template <int kPart>
__device__ __forceinline__ ExpertLists place_lists(const ExpertsCall& c, std::byte* memory) {
  const int n = c.T * c.K;
  ExpertLists l;
  l.weight = reinterpret_cast<float*>(memory) + 1;
  l.pair = reinterpret_cast<int16_t*>(l.weight + n);
  l.token = l.pair + n;
  l.active = l.token + n;
  l.start = l.active + most_active<kPart>(n, c.E);
  return l;
}
// Lists that make_lists has made, for another thread of the block after a barrier.
template <int kPart>
__device__ __forceinline__ ExpertLists lists_in(const ExpertsCall& c, std::byte* memory) {
  ExpertLists l = place_lists<kPart>(c, memory);
  l.n_active = *reinterpret_cast<const int*>(memory);
  return l;
}

// Masks and starts of the experts.
__host__ __device__ constexpr int64_t lists_temporary_bytes(int64_t E) {
  return (12 * E + 7) / 8 * 8;
}

// By kThreads threads, each with its `tid`; `barrier` is theirs, and the last thing is a barrier.
// `temporary` holds lists_temporary_bytes(E) that are free until then.
template <int kPart, int kThreads, typename Barrier>
__device__ __forceinline__ ExpertLists make_lists(const ExpertsCall& c, int tid, std::byte* memory,
                                                  std::byte* temporary, const Barrier& barrier) {
  const int n = c.T * c.K;
  ExpertLists l = place_lists<kPart>(c, memory);
  if (c.T == 1) {  // its experts come in ascending order
    for (int k = tid; k < c.K; k += kThreads) {
      l.active[k] = static_cast<int16_t>(__ldcg(c.ids + k));
      l.start[k] = l.pair[k] = static_cast<int16_t>(k);
      l.token[k] = 0;
      l.weight[k] = __ldcg(c.chosen + k);
    }
    if (tid == 0) {
      l.start[c.K] = static_cast<int16_t>(c.K);
      *reinterpret_cast<int*>(memory) = c.K;
    }
    l.n_active = c.K;
    barrier();
    return l;
  }
  auto* masks = reinterpret_cast<unsigned long long*>(temporary);  // [E]: a bit per token
  int* first = reinterpret_cast<int*>(masks + c.E);  // [E]: where an expert's pairs start
  int* n_active = reinterpret_cast<int*>(memory);
  const auto expert_of = [&](int p) { return __ldcg(c.ids + p / c.K * c.ids_stride + p % c.K); };

  for (int e = tid; e < c.E; e += kThreads) masks[e] = 0;
  barrier();
  for (int p = tid; p < n; p += kThreads) atomicOr(&masks[expert_of(p)], 1ull << (p / c.K));
  barrier();
  if (tid < 32) {  // a lane takes a run of experts; runs are joined by a scan
    const int per_lane = (c.E + 31) / 32, e0 = tid * per_lane, e1 = min(e0 + per_lane, c.E);
    int experts = 0, pairs = 0;
    for (int e = e0; e < e1; ++e) {
      experts += (__popcll(masks[e]) + kPart - 1) / kPart;
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
      for (int left = __popcll(masks[e]); left > 0; left -= kPart) {
        l.active[experts_before] = static_cast<int16_t>(e);
        l.start[experts_before++] = static_cast<int16_t>(pairs_before);
        pairs_before += min(left, kPart);
      }
    }
  }
  barrier();
  for (int p = tid; p < n; p += kThreads) {
    const int e = expert_of(p), t = p / c.K;
    const int at = first[e] + __popcll(masks[e] & ((1ull << t) - 1));
    l.pair[at] = static_cast<int16_t>(p);
    l.token[at] = static_cast<int16_t>(t);
    l.weight[at] = __ldcg(c.chosen + t * c.chosen_stride + p % c.K);
  }
  l.n_active = *n_active;
  barrier();
  return l;
}

// Fills in the rows of activations of an active expert's tokens; `index` says which row a pair has.
// Past the last token it is the first one's again.
template <int kTiles, typename Tokens, typename Index>
__device__ __forceinline__ void find_tokens(const ExpertLists& l, int a, int lane,
                                            int64_t row_bytes, const Index& index, Tokens& out) {
  const int start = l.start[a];
  out.n = l.start[a + 1] - start;
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    const int i = j * 8 + lane / 4;
    out.offset[j] = static_cast<uint32_t>(index(start + (i < out.n ? i : 0))) *
                    static_cast<uint32_t>(row_bytes);
  }
}

}  // namespace dsr::cuda
