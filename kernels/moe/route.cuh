// The choice of a token's experts by one warp, and their weights: moe_route, alone or behind the
// router in one kernel. Definition: ops/moe.h.
//
// Lane l holds the experts l, l + 32, l + 64, ...; a round of the top-k is two reductions over the
// warp.
#pragma once

#include "common/launch.h"
#include "ops/moe.h"

namespace dsr::cuda {

inline constexpr int kMaxRouted = 1024, kMaxGroups = 32, kMaxChosen = 32;

struct RouteParams {
  int* expert_ids;
  float* expert_weights;
  const float* logits;  // of moe_route alone
  const float* bias;    // or null
  int64_t ids_stride, weights_stride, logits_stride;
  int T, E, K, n_group, topk_group;
  float factor;
  bool sigmoid, top2_sum, norm;
};

inline bool can_route(const MoeRouteArgs& a, int64_t E) {
  return E <= kMaxRouted && a.n_group <= kMaxGroups && a.expert_ids.shape[1] <= kMaxChosen;
}
inline RouteParams route_params(const MoeRouteArgs& a, int64_t E) {
  const bool has_bias = a.correction_bias.rank() > 0, has_logits = a.logits.rank() > 0;
  return {.expert_ids = a.expert_ids.ptr<int>(),
          .expert_weights = a.expert_weights.ptr<float>(),
          .logits = has_logits ? a.logits.ptr<float>() : nullptr,
          .bias = has_bias ? a.correction_bias.ptr<float>() : nullptr,
          .ids_stride = a.expert_ids.strides[0],
          .weights_stride = a.expert_weights.strides[0],
          .logits_stride = has_logits ? a.logits.strides[0] : 0,
          .T = narrow(a.expert_ids.shape[0]),
          .E = narrow(E),
          .K = narrow(a.expert_ids.shape[1]),
          .n_group = narrow(a.n_group),
          .topk_group = narrow(a.topk_group),
          .factor = a.routed_scaling_factor,
          .sigmoid = a.scoring_func == ScoringFunc::kSigmoid,
          .top2_sum = a.group_score == GroupScore::kTop2Sum,
          .norm = a.norm_topk_prob};
}

inline constexpr unsigned kAllLanes = 0xffffffffu;
inline constexpr uint32_t kTaken = 0;  // below the key of every float

// Larger floats have larger keys.
__device__ __forceinline__ uint32_t key_of(float v) {
  const uint32_t bits = __float_as_uint(v == 0.0f ? 0.0f : v);  // -0 and 0 are equal
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float float_of(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// Takes the largest key, the lowest index among equals, of 32 i + lane for key i of a lane. Whether
// it was key i of this lane: bit i.
template <int kPerLane>
__device__ __forceinline__ uint32_t take_largest(uint32_t (&keys)[kPerLane], int lane) {
  uint32_t best = kTaken;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) best = max(best, keys[i]);
  const uint32_t top = __reduce_max_sync(kAllLanes, best);
  unsigned at = kAllLanes;
#pragma unroll
  for (int i = kPerLane - 1; i >= 0; --i)
    if (keys[i] == top) at = static_cast<unsigned>(32 * i + lane);
  const auto index = static_cast<int>(__reduce_min_sync(kAllLanes, at));
  uint32_t taken = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    if (index != 32 * i + lane) continue;
    keys[i] = kTaken;
    taken = 1u << i;
  }
  return taken;
}

// The n largest keys, the lowest indices among equals: bit i for key i of this lane.
template <int kPerLane>
__device__ __forceinline__ uint32_t largest(const uint32_t (&keys)[kPerLane], int n, int lane) {
  // A round for each takes all that are equal to the largest. If these are n, no two of them were.
  uint32_t left[kPerLane], taken = 0;
  int n_taken = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) left[i] = keys[i];
#pragma unroll 1
  for (int k = 0; k < n; ++k) {
    uint32_t best = kTaken;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) best = max(best, left[i]);
    const uint32_t top = __reduce_max_sync(kAllLanes, best);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (left[i] != top) continue;
      left[i] = kTaken;
      taken |= 1u << i;
    }
  }
#pragma unroll
  for (int i = 0; i < kPerLane; ++i)
    n_taken += __popc(__ballot_sync(kAllLanes, (taken >> i & 1u) != 0));
  if (n_taken == n) return taken;
  // Some are equal.
  taken = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) left[i] = keys[i];
#pragma unroll 1
  for (int k = 0; k < n; ++k) taken |= take_largest(left, lane);
  return taken;
}

// a / b to float's precision, b positive and neither b nor 1 / b near the ends of float's range.
__device__ __forceinline__ float quotient(float a, float b) {
  float one_over_b;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(one_over_b) : "f"(b));
  const float q = a * one_over_b;
  return fmaf(fmaf(-q, b, a), one_over_b, q);
}

// The sum over a warp of values in [0, 1], each taken to 2^-42 or better; NaN counts as 0. They are
// added up as integers, in two parts, since a warp has an instruction for these.
template <int kPerLane>
__device__ __forceinline__ float sum_of_fractions(const float (&values)[kPerLane]) {
  // So that 32 kPerLane ones are 2^31 at most.
  constexpr int kBits = kPerLane <= 2 ? 25 : kPerLane <= 8 ? 23 : 21;
  static_assert(kPerLane << kBits <= 1 << 26);
  constexpr auto kOne = static_cast<float>(1 << kBits);
  uint32_t high = 0, low = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const float scaled = values[i] * kOne;
    const uint32_t whole = __float2uint_rz(scaled);
    high += whole;
    low += __float2uint_rz((scaled - static_cast<float>(whole)) * kOne);
  }
  high = __reduce_add_sync(kAllLanes, high);
  low = __reduce_add_sync(kAllLanes, low);
  return (static_cast<float>(high) + static_cast<float>(low) * (1 / kOne)) * (1 / kOne);
}

// Scores from logits, in place; -inf where there is no expert. With a NaN among the logits all
// scores of a softmax are NaN.
template <int kPerLane>
__device__ __forceinline__ void score(float (&s)[kPerLane], bool sigmoid) {
  if (sigmoid) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) s[i] = 1.0f / (1.0f + expf(-s[i]));
    return;
  }
  float best = -INFINITY;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i)
    asm("max.NaN.f32 %0, %0, %1;" : "+f"(best) : "f"(s[i]));  // NaN has the largest key
  const float max = float_of(__reduce_max_sync(kAllLanes, key_of(best)));
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) s[i] = expf(s[i] - max);
  const float sum = sum_of_fractions(s);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) s[i] = quotient(s[i], sum);
}

// -inf for the experts of other groups than the best. shared: [E], in shared memory.
template <int kPerLane>
__device__ __forceinline__ void drop_groups(float (&c)[kPerLane], const RouteParams& p,
                                            float* shared, int lane) {
#pragma unroll
  for (int i = 0; i < kPerLane; ++i)
    if (32 * i + lane < p.E) shared[32 * i + lane] = c[i];
  __syncwarp();
  // A few lanes for each group.
  const int n = p.E / p.n_group, n_lanes = 1 << (31 - __clz(32 / p.n_group));
  const int group = lane / n_lanes, part = lane % n_lanes, rounds = (n + n_lanes - 1) / n_lanes;
  float best = -INFINITY, second = -INFINITY;
  // Groups start at different places of their experts, for the banks.
  for (int i = 0, at = group % rounds; i < rounds; ++i, at = at + 1 == rounds ? 0 : at + 1) {
    const int e = at * n_lanes + part;
    if (group >= p.n_group || e >= n) continue;
    const float v = shared[group * n + e];
    second = fmaxf(second, fminf(best, v));
    best = fmaxf(best, v);
  }
  for (int offset = n_lanes / 2; offset > 0; offset /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, best, offset);
    second = fmaxf(fmaxf(second, __shfl_xor_sync(kAllLanes, second, offset)), fminf(best, other));
    best = fmaxf(best, other);
  }
  const float score = p.top2_sum && n >= 2 ? best + second : best;
  uint32_t keys[1] = {group < p.n_group && part == 0 ? key_of(score) : kTaken};
  // A bit in the first lane of a group.
  const uint32_t kept = __ballot_sync(kAllLanes, largest(keys, p.topk_group, lane) != 0);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i)
    if ((kept >> ((32 * i + lane) / n * n_lanes % 32) & 1u) == 0) c[i] = -INFINITY;
}

// Token t by one warp; kPerLane experts or fewer in every lane. bias: [E], p.bias or a copy of what
// it points to; shared: [E], in shared memory.
template <int kPerLane>
__device__ __forceinline__ void route_token(const RouteParams& p, int64_t t, const float* logits,
                                            const float* bias, float* shared) {
  static_assert(kPerLane <= 32, "a bit for each");
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float s[kPerLane], c[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int e = 32 * i + lane;
    s[i] = e < p.E ? logits[e] : -INFINITY;
    c[i] = e < p.E && p.bias != nullptr ? bias[e] : 0;
  }
  score(s, p.sigmoid);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) c[i] = p.bias != nullptr ? s[i] + c[i] : s[i];
  if (p.n_group > 1) drop_groups(c, p, shared, lane);
  uint32_t keys[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) keys[i] = 32 * i + lane < p.E ? key_of(c[i]) : kTaken;
  const uint32_t chosen = largest(keys, p.K, lane);  // bit i: expert 32 i + lane

  // Every choice to its place in ascending order; the sum in that order.
  __syncwarp();
  int* ids = p.expert_ids + t * p.ids_stride;
  float* weights = p.expert_weights + t * p.weights_stride;
  int n = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const bool is_chosen = (chosen >> i & 1u) != 0;
    const unsigned who = __ballot_sync(kAllLanes, is_chosen);
    const int place = n + __popc(who & ((1u << lane) - 1));
    n += __popc(who);
    if (!is_chosen) continue;
    ids[place] = 32 * i + lane;
    if (p.norm)
      shared[place] = s[i];
    else
      weights[place] = s[i] * p.factor;
  }
  if (!p.norm) return;
  __syncwarp();
  double sum = 1e-20;
#pragma unroll 1
  for (int k = 0; k < p.K; ++k) sum += static_cast<double>(shared[k]);
  if (lane < p.K) weights[lane] = quotient(shared[lane], static_cast<float>(sum)) * p.factor;
}

}  // namespace dsr::cuda
