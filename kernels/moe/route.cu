// moe_route on CUDA. Definition and shapes: ops/moe.h.
//
// Mapping   a warp per token; scores stand in shared memory, what is left to choose from in
//           registers; a round of the top-k is two reductions over the warp.
// Needs     E <= 1024, n_group <= 32, K <= 32.
// Traffic   T * (E + 2 K) * 4 bytes: latency only.
#include "ops/moe.h"

#include "common/launch.h"
#include "common/ptx.cuh"
#include "common/types.cuh"

namespace dsr::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * 32;
constexpr int kMaxRouted = 1024, kMaxGroups = 32, kMaxChosen = 32;
constexpr unsigned kAll = 0xffffffffu;
constexpr uint32_t kTaken = 0;  // below the key of every float

struct RouteParams {
  int* expert_ids;
  float* expert_weights;
  const float* logits;
  const float* bias;  // or null
  int64_t ids_stride, weights_stride, logits_stride;
  int T, E, K, n_group, topk_group;
  float factor;
  bool sigmoid, top2_sum, norm;
};

// Larger floats have larger keys.
__device__ __forceinline__ uint32_t key_of(float v) {
  const uint32_t bits = __float_as_uint(v == 0.0f ? 0.0f : v);  // -0 and 0 are equal
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// The index of the largest key, the lowest among equals, and marks it as taken. Key i of a lane has
// the index 32 i + lane.
template <int kPerLane>
__device__ __forceinline__ int take_largest(uint32_t (&keys)[kPerLane], int lane) {
  uint32_t best = kTaken;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) best = max(best, keys[i]);
  const uint32_t top = __reduce_max_sync(kAll, best);
  unsigned at = kAll;
#pragma unroll
  for (int i = kPerLane - 1; i >= 0; --i)
    if (keys[i] == top) at = static_cast<unsigned>(32 * i + lane);
  const auto index = static_cast<int>(__reduce_min_sync(kAll, at));
#pragma unroll
  for (int i = 0; i < kPerLane; ++i)
    if (index == 32 * i + lane) keys[i] = kTaken;
  return index;
}

// s[0, E) from logits, in place.
__device__ __forceinline__ void score(float* s, const RouteParams& p, int lane) {
  if (p.sigmoid) {
    for (int e = lane; e < p.E; e += 32) s[e] = 1.0f / (1.0f + expf(-s[e]));
    return;
  }
  float max = -INFINITY;
  for (int e = lane; e < p.E; e += 32) max = fmaxf(max, s[e]);
  for (int offset = 16; offset > 0; offset /= 2)
    max = fmaxf(max, __shfl_xor_sync(kAll, max, offset));
  double sum = 0;
  for (int e = lane; e < p.E; e += 32) {
    s[e] = expf(s[e] - max);
    sum += static_cast<double>(s[e]);
  }
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAll, sum, offset);
  for (int e = lane; e < p.E; e += 32) s[e] = static_cast<float>(static_cast<double>(s[e]) / sum);
}

// Lane g: the score of group g. Lanes start at different places of their groups, for the banks.
__device__ __forceinline__ float group_score(const float* c, const RouteParams& p, int lane) {
  const int n = p.E / p.n_group;
  float best = -INFINITY, second = -INFINITY;
  for (int i = 0, at = lane % n; i < n; ++i, at = at + 1 == n ? 0 : at + 1) {
    const float v = c[lane * n + at];
    second = fmaxf(second, fminf(best, v));
    best = fmaxf(best, v);
  }
  return p.top2_sum && n >= 2 ? best + second : best;
}

// kPerLane experts or fewer in every lane.
template <int kPerLane>
__global__ __launch_bounds__(kThreads) void route_kernel(const RouteParams p) {
  extern __shared__ float shared[];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  float* s = shared + warp * 2 * p.E;  // [E]
  float* c = s + p.E;                  // [E]
  wait_for_previous_kernel();
  const int64_t t = int64_t{blockIdx.x} * kWarps + warp;
  if (t >= p.T) return;

  for (int e = lane; e < p.E; e += 32) s[e] = p.logits[t * p.logits_stride + e];
  score(s, p, lane);
  for (int e = lane; e < p.E; e += 32) c[e] = p.bias != nullptr ? s[e] + p.bias[e] : s[e];
  __syncwarp();
  uint32_t kept = kAll;  // a bit per group
  if (p.n_group > 1) {
    uint32_t group_keys[1] = {lane < p.n_group ? key_of(group_score(c, p, lane)) : kTaken};
    kept = 0;
    for (int i = 0; i < p.topk_group; ++i) kept |= 1u << take_largest(group_keys, lane);
  }
  const int per_group = p.E / p.n_group;
  uint32_t keys[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int e = 32 * i + lane;
    keys[i] = kTaken;
    if (e >= p.E) continue;
    const bool in = p.n_group == 1 || (kept >> (e / per_group) & 1u) != 0;
    keys[i] = key_of(in ? c[e] : -INFINITY);
  }
  int mine = 0;  // lane k: the k-th choice
  for (int k = 0; k < p.K; ++k) {
    const int e = take_largest(keys, lane);
    if (lane == k) mine = e;
  }

  // Every choice to its place in ascending order; the sum in that order.
  int place = 0;
  for (int k = 0; k < p.K; ++k) place += __shfl_sync(kAll, mine, k) < mine ? 1 : 0;
  double sum = 1e-20;
  for (int k = 0; k < p.K; ++k) {
    const unsigned who = __ballot_sync(kAll, lane < p.K && place == k);
    sum += static_cast<double>(s[__shfl_sync(kAll, mine, __ffs(static_cast<int>(who)) - 1)]);
  }
  if (lane >= p.K) return;
  float w = s[mine];
  if (p.norm) w = static_cast<float>(static_cast<double>(w) / sum);
  p.expert_ids[t * p.ids_stride + place] = mine;
  p.expert_weights[t * p.weights_stride + place] = w * p.factor;
}

}  // namespace

void moe_route(Exec& exec, const MoeRouteArgs& a) {
  const int64_t T = a.logits.shape[0], E = a.logits.shape[1], K = a.expert_ids.shape[1];
  if (E > kMaxRouted || a.n_group > kMaxGroups || K > kMaxChosen)
    fail(ErrorKind::kDevice, "moe_route: ", E, " experts in ", a.n_group, " groups, ", K,
         " per token; CUDA takes at most ", kMaxRouted, ", ", kMaxGroups, " and ", kMaxChosen);
  const bool has_bias = a.correction_bias.rank() > 0;
  launch(exec, "moe_route",
         {.grid = dim3(static_cast<unsigned>((T + kWarps - 1) / kWarps)),
          .threads = kThreads,
          .shared_bytes = kWarps * 2 * E * 4},
         E <= 64    ? route_kernel<2>
         : E <= 256 ? route_kernel<8>
                    : route_kernel<kMaxRouted / 32>,
         RouteParams{.expert_ids = a.expert_ids.ptr<int>(),
                     .expert_weights = a.expert_weights.ptr<float>(),
                     .logits = a.logits.ptr<float>(),
                     .bias = has_bias ? a.correction_bias.ptr<float>() : nullptr,
                     .ids_stride = a.expert_ids.strides[0],
                     .weights_stride = a.expert_weights.strides[0],
                     .logits_stride = a.logits.strides[0],
                     .T = narrow(T),
                     .E = narrow(E),
                     .K = narrow(K),
                     .n_group = narrow(a.n_group),
                     .topk_group = narrow(a.topk_group),
                     .factor = a.routed_scaling_factor,
                     .sigmoid = a.scoring_func == ScoringFunc::kSigmoid,
                     .top2_sum = a.group_score == GroupScore::kTop2Sum,
                     .norm = a.norm_topk_prob});
}

}  // namespace dsr::cuda
