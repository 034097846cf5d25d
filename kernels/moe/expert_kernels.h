// The kernels behind moe_experts, and what they are given.
#pragma once

#include "common/types.cuh"
#include "gemm/linear_kernels.h"
#include "moe/expert_weights.h"

namespace dsr::cuda {

inline constexpr int kMaxExperts = 1024;

// The shared experts, which every token goes to: one MLP of width F. For one token.
struct SharedExperts {
  DenseLayout down;  // gate and up lie like those of the routed experts
  DenseSegment gate, up, down_rows;
  bf16* hidden;  // [F]
  int F;         // 0: none in this call
};

// A pair is (token, its k-th expert), numbered token * K + k.
struct ExpertsCall {
  DenseLayout gate_up, down;  // of every expert's segments; not for the plain kernels
  ExpertWeights weights;
  const std::byte* x;  // [T, D] bf16
  int64_t x_stride_bytes;
  const int* ids;       // [T, K], ascending in each row
  const float* chosen;  // [T, K], the weights of the pairs
  int64_t ids_stride, chosen_stride;
  bf16*
      hidden;  // [T * K, F]: silu(gate x) * (up x); decode: of pair p, else of the p-th sorted pair
  float* products;       // [T * K, D]: down hidden of every pair; of stream_many
  SharedExperts shared;  // of stream_gate_up and stream_down
  const bf16* addend;    // [T, D], or null
  int64_t addend_stride;
  void* out;  // [T, D]
  int64_t out_stride;
  int T, D, F, E, K;
  bool out_f32, touch_x;
};

// The sum over a token's experts to `out`, the addend with it.
__device__ __forceinline__ void store_result(const ExpertsCall& c, int64_t token, int column,
                                             float sum) {
  if (c.addend != nullptr) sum += to_float(c.addend[token * c.addend_stride + column]);
  store_as(c.out, c.out_f32, token * c.out_stride + column, sum);
}

// 1..64 tokens: every weight of a wanted expert is read once.
void skinny_gate_up(Exec& exec, const ExpertsCall& c);
void skinny_down(Exec& exec, const ExpertsCall& c);

// The same on sm_90, if stream_takes(): one token, with its shared experts, and 2..64 without. Of a
// call stream_takes() looks at layouts and sizes but T.
bool stream_takes(ExpertsCall c, int n_sms);
bool stream_gate_up_fits(const ExpertsCall& c);  // its parts: one token
bool stream_down_fits(const ExpertsCall& c, int n_sms);
void stream_gate_up(Exec& exec, const ExpertsCall& c);
void stream_down(Exec& exec, const ExpertsCall& c);
void stream_many(Exec& exec, const ExpertsCall& c);
// 2..8 tokens with their shared experts, whose sum is the call's addend.
struct SharedProducts {
  DenseProduct gate_up, down;
};
bool stream_few_takes(const ExpertsCall& c, const SharedProducts& s, int n_sms);
void stream_few(Exec& exec, const ExpertsCall& c, const SharedProducts& s);

// Many tokens.
struct ExpertPlan {
  int* sorted;       // [T * K]: pairs by expert
  int* tile_expert;  // [max_tiles]
  int* tile_first;   // [max_tiles]: of its pairs, in `sorted`
  int* tile_pairs;   // [max_tiles]: how many, at most tile_tokens
  int* n_tiles;
  float* products;      // [T * K, D]: down h of every pair
  int tile_tokens = 0;  // tiled_experts chooses
};
int64_t max_expert_tiles(int64_t T, int64_t K, int64_t E);
void tiled_experts(Exec& exec, const ExpertsCall& c, ExpertPlan plan);

// Its products on sm_90, and in tiles of how many pairs.
int wide_expert_tokens(const ExpertsCall& c);
void wide_gate_up(Exec& exec, const ExpertsCall& c, const ExpertPlan& plan);
void wide_down(Exec& exec, const ExpertsCall& c, const ExpertPlan& plan);

// Any weight, any alignment.
void plain_experts(Exec& exec, const ExpertsCall& c, const QuantScheme& gate_up,
                   const QuantScheme& down);

}  // namespace dsr::cuda
