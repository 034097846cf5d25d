// log_probs on CUDA. Definition and shapes: ops/log_probs.h.
//
// Mapping   one block per wanted row; the likeliest are found one by one, a pass over the row each.
//           Asked for by few, so simple: the step that has such rows is not recorded either.
// Traffic   K + 2 reads of a row, from L2.
#include "ops/log_probs.h"

#include "common/launch.h"
#include "common/ptx.cuh"

namespace dsr::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;

struct LogProbsParams {
  float* log_probs;      // [L]
  int32_t* top_ids;      // [L, K]
  float* top_log_probs;  // [L, K]
  int64_t top_ids_stride, top_log_probs_stride;
  const float* logits;  // [R, V]
  int64_t logits_stride;
  const int32_t* token_ids;  // [R]
  const int32_t* rows;       // [L]
  int V, K;
};

struct Candidate {
  float logit;
  int id;  // V: none
};
// Larger logits come first, lower ids among equals.
__device__ __forceinline__ bool before(Candidate a, Candidate b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// The first of all threads' candidates, in every thread.
__device__ Candidate first_of(Candidate c, Candidate* shared) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const Candidate other = {__shfl_xor_sync(0xffffffffu, c.logit, offset),
                             __shfl_xor_sync(0xffffffffu, c.id, offset)};
    if (before(other, c)) c = other;
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = c;
  __syncthreads();
  for (int w = 0; w < kWarps; ++w)
    if (before(shared[w], c)) c = shared[w];
  return c;
}
__device__ double sum_of(double v, double* shared) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(0xffffffffu, v, offset);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
  __syncthreads();
  double sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += shared[w];
  return sum;
}

__global__ __launch_bounds__(kThreads) void log_probs_kernel(const LogProbsParams p) {
  __shared__ Candidate candidates[kWarps];
  __shared__ double sums[kWarps];
  wait_for_previous_kernel();
  const int l = blockIdx.x, row = p.rows[l], token = p.token_ids[row];
  const float* logits = p.logits + row * p.logits_stride;
  int32_t* top_ids = p.top_ids + l * p.top_ids_stride;
  float* top_log_probs = p.top_log_probs + l * p.top_log_probs_stride;
  if (token < 0) {
    for (int k = threadIdx.x; k < p.K; k += kThreads) {
      top_ids[k] = -1;
      top_log_probs[k] = 0;
    }
    if (threadIdx.x == 0) p.log_probs[l] = 0;
    return;
  }
  const auto next_after = [&](Candidate last, bool any) {
    Candidate best = {-INFINITY, p.V};
    for (int id = threadIdx.x; id < p.V; id += kThreads) {
      const Candidate c = {logits[id], id};
      if ((any || before(last, c)) && before(c, best)) best = c;
    }
    return first_of(best, candidates);
  };
  Candidate top = next_after({}, true);
  const double max = static_cast<double>(top.logit);
  double sum = 0;
  for (int id = threadIdx.x; id < p.V; id += kThreads)
    sum += exp(static_cast<double>(logits[id]) - max);
  const double log_sum = log(sum_of(sum, sums));
  const auto log_prob = [&](float logit) {
    return static_cast<float>(static_cast<double>(logit) - max - log_sum);
  };
  if (threadIdx.x == 0) p.log_probs[l] = log_prob(logits[token]);
  for (int k = 0; k < p.K; ++k) {
    if (threadIdx.x == 0) {
      top_ids[k] = top.id;
      top_log_probs[k] = log_prob(top.logit);
    }
    if (k + 1 < p.K) top = next_after(top, false);
  }
}

}  // namespace

void log_probs(Exec& exec, const LogProbsArgs& a) {
  launch(exec, "log_probs",
         {.grid = dim3(static_cast<unsigned>(a.rows.shape[0])), .threads = kThreads},
         log_probs_kernel,
         LogProbsParams{.log_probs = a.log_probs.ptr<float>(),
                        .top_ids = a.top_ids.ptr<int32_t>(),
                        .top_log_probs = a.top_log_probs.ptr<float>(),
                        .top_ids_stride = a.top_ids.strides[0],
                        .top_log_probs_stride = a.top_log_probs.strides[0],
                        .logits = a.logits.ptr<float>(),
                        .logits_stride = a.logits.strides[0],
                        .token_ids = a.token_ids.ptr<int32_t>(),
                        .rows = a.rows.ptr<int32_t>(),
                        .V = narrow(a.logits.shape[1]),
                        .K = narrow(a.top_ids.shape[1])});
}

}  // namespace dsr::cuda
