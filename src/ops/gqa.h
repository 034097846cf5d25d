// Multi-head and grouped-query attention (Vaswani et al. 2017; Ainslie et al. 2023,
// arXiv:2305.13245) over a paged cache, with rotary positions in the half-split layout: pairs
// (x[i], x[i + d/2]) turn by the angle of frequency i (Su et al. 2021, arXiv:2104.09864).
#pragma once

#include "device/exec.h"
#include "tensor/kv_format.h"
#include "tensor/rope.h"

namespace dsr {

// Stores a token's rope(k) and v in its page.
struct GqaWriteKvArgs {
  Tensor k;          // [T, G, d] activation, not rotated
  Tensor v;          // [T, G, d] activation
  RopeTable rope;    // [P, d / 2]
  Tensor positions;  // [T] i32
  Tensor slots;      // [T] i64: block * kPageTokens + offset in the block
  GqaCacheView cache;
};

// Query head h reads KV head h * G / H:
//   p = softmax(rope(q) . k_s * softmax_scale) over the tokens 0..positions[t] of t's sequence
//   out[t, h] = sum_s p_s v_s                     scores and softmax in fp32 or better
struct GqaAttentionArgs {
  Tensor out;      // [T, H, d] activation
  Tensor q;        // [T, H, d] activation, not rotated
  RopeTable rope;  // [P, d / 2]
  GqaCacheView cache;
  Tensor positions;     // [T] i32
  Tensor cu_seqlens_q;  // [S + 1] i32: sequence s owns the tokens [cu[s], cu[s + 1])
  Tensor block_table;   // [S, max_blocks] i32
  float softmax_scale = 0;
};
namespace ops {
void gqa_write_kv(Exec& exec, const GqaWriteKvArgs& a);
void gqa_attention(Exec& exec, const GqaAttentionArgs& a);
}  // namespace ops
namespace ref {
void gqa_write_kv(Exec& exec, const GqaWriteKvArgs& a);
void gqa_attention(Exec& exec, const GqaAttentionArgs& a);
}  // namespace ref
namespace cuda {
void gqa_write_kv(Exec& exec, const GqaWriteKvArgs& a);
void gqa_attention(Exec& exec, const GqaAttentionArgs& a);
}  // namespace cuda
namespace cpu {
void gqa_attention(Exec& exec, const GqaAttentionArgs& a);
void gqa_write_kv(Exec& exec, const GqaWriteKvArgs& a);
}  // namespace cpu

}  // namespace dsr
