// Multi-head latent attention (DeepSeek-V2 report, arXiv:2405.04434, section 2.1), absorbed: the
// cache holds one latent and one rotated key per token, shared by all heads; kv_b_proj is applied
// to queries and outputs instead of to the cache.
//
// kv_b_proj, head by head:  W_UK[h] = rows [0, nope), W_UV[h] = rows [nope, nope + v)  of head h.
#pragma once

#include "device/exec.h"
#include "tensor/kv_format.h"
#include "tensor/quant.h"
#include "tensor/rope.h"

namespace dsr {

// Stores a token's row: c = rms_norm(kv_a[:kv_lora_rank]), k_pe = rope(kv_a[kv_lora_rank:]),
// interleaved pairs (2i, 2i + 1).
struct MlaWriteKvArgs {
  Tensor kv_a;    // [T, kv_lora_rank + qk_rope_head_dim] activation: kv_a_proj_with_mqa(x)
  Tensor weight;  // [kv_lora_rank] f32: kv_a_layernorm
  float eps = 0;
  RopeTable rope;
  Tensor positions;  // [T] i32
  Tensor slots;      // [T] i64: block * kPageTokens + offset in the block
  MlaCacheView cache;
};

// The query in the cache's terms:
//   out[t, h] = [ q_nope[t, h] W_UK[h]  |  rope(q_pe[t, h]) ]
struct MlaQueryArgs {
  Tensor out;        // [T, H, kv_lora_rank + qk_rope_head_dim] activation
  Tensor q;          // [T, H, qk_nope_head_dim + qk_rope_head_dim] activation
  Weight kv_b_proj;  // [H * (qk_nope_head_dim + v_head_dim), kv_lora_rank]
  int64_t v_head_dim = 0;
  RopeTable rope;
  Tensor positions;  // [T] i32
};

// Attention over the cached rows, values being the latents:
//   p = softmax(out_query . row * softmax_scale) over the rows 0..positions[t] of t's sequence
//   out[t, h] = sum_s p_s c_s
struct MlaAttentionArgs {
  Tensor out;  // [T, H, kv_lora_rank] activation
  Tensor q;    // [T, H, kv_lora_rank + qk_rope_head_dim] activation
  MlaCacheView cache;
  Tensor positions;     // [T] i32
  Tensor cu_seqlens_q;  // [S + 1] i32: sequence s owns the tokens [cu[s], cu[s + 1])
  Tensor block_table;   // [S, max_blocks] i32
  float softmax_scale = 0;
};

// out[t, h] = W_UV[h] latent[t, h]
struct MlaValueArgs {
  Tensor out;        // [T, H, v_head_dim] activation
  Tensor latent;     // [T, H, kv_lora_rank] activation
  Weight kv_b_proj;  // [H * (qk_nope_head_dim + v_head_dim), kv_lora_rank]
  int64_t qk_nope_head_dim = 0;
};

// A layer's two steps from the first projections, in one launch: mla_query and mla_write_kv,
// neither of which reads what the other writes.
struct MlaQueryAndWriteArgs {
  MlaQueryArgs query;
  MlaWriteKvArgs write;
};

// A layer's two steps towards o_proj, in one launch less where a backend can: mla_attention, and
// mla_value of its result.
struct MlaAttentionAndValueArgs {
  MlaAttentionArgs attention;  // out: value.latent, whose contents are nobody's afterwards
  MlaValueArgs value;
};

// The expanded form: keys and values of every head rebuilt from the cache, then ordinary attention.
// Equal to mla_query, mla_attention, mla_value in exact arithmetic; cheaper for long prompts.
struct MlaExpandedArgs {
  Tensor out;        // [T, H, v_head_dim] activation
  Tensor q;          // [T, H, qk_nope_head_dim + qk_rope_head_dim] activation, not rotated
  Weight kv_b_proj;  // [H * (qk_nope_head_dim + v_head_dim), kv_lora_rank]
  RopeTable rope;
  MlaCacheView cache;
  Tensor positions;     // [T] i32
  Tensor cu_seqlens_q;  // [S + 1] i32
  Tensor block_table;   // [S, max_blocks] i32
  float softmax_scale = 0;
  // Rows of all S sequences in the cache, each one's rounded up to whole pages; 0: as many as the
  // block table has room for.
  int64_t n_rows = 0;
};

// Prompts whose form is to be chosen. Rows are expanded once for all tokens of their sequence, so
// it is tokens per row that decide, n_pairs / n_seen: a deep row counts as often as it is.
struct MlaPromptShape {
  int64_t qk_nope_head_dim = 0, qk_rope_head_dim = 0, v_head_dim = 0, kv_lora_rank = 0;
  int64_t n_seen = 0;   // rows of all sequences
  int64_t n_pairs = 0;  // sum over the sequences of tokens times rows
};

namespace ops {
// Whether a backend has prompts go through mla_expanded_attention. Not on reference and cpu, where
// chunks change no bit.
bool mla_expands(Exec& exec, const MlaPromptShape& s);
void mla_write_kv(Exec& exec, const MlaWriteKvArgs& a);
void mla_query(Exec& exec, const MlaQueryArgs& a);
void mla_attention(Exec& exec, const MlaAttentionArgs& a);
void mla_value(Exec& exec, const MlaValueArgs& a);
void mla_query_and_write(Exec& exec, const MlaQueryAndWriteArgs& a);
void mla_attention_and_value(Exec& exec, const MlaAttentionAndValueArgs& a);
void mla_expanded_attention(Exec& exec, const MlaExpandedArgs& a);
}  // namespace ops
namespace ref {
void mla_write_kv(Exec& exec, const MlaWriteKvArgs& a);
void mla_query(Exec& exec, const MlaQueryArgs& a);
void mla_attention(Exec& exec, const MlaAttentionArgs& a);
void mla_value(Exec& exec, const MlaValueArgs& a);
void mla_query_and_write(Exec& exec, const MlaQueryAndWriteArgs& a);
void mla_attention_and_value(Exec& exec, const MlaAttentionAndValueArgs& a);
void mla_expanded_attention(Exec& exec, const MlaExpandedArgs& a);
}  // namespace ref
namespace cuda {
bool mla_expands(Exec& exec, const MlaPromptShape& s);
void mla_write_kv(Exec& exec, const MlaWriteKvArgs& a);
void mla_query(Exec& exec, const MlaQueryArgs& a);
void mla_attention(Exec& exec, const MlaAttentionArgs& a);
void mla_value(Exec& exec, const MlaValueArgs& a);
void mla_query_and_write(Exec& exec, const MlaQueryAndWriteArgs& a);
void mla_attention_and_value(Exec& exec, const MlaAttentionAndValueArgs& a);
void mla_expanded_attention(Exec& exec, const MlaExpandedArgs& a);
}  // namespace cuda
namespace cpu {
void mla_attention(Exec& exec, const MlaAttentionArgs& a);
using ref::mla_expanded_attention;
void mla_query(Exec& exec, const MlaQueryArgs& a);
void mla_query_and_write(Exec& exec, const MlaQueryAndWriteArgs& a);
void mla_attention_and_value(Exec& exec, const MlaAttentionAndValueArgs& a);
void mla_value(Exec& exec, const MlaValueArgs& a);
void mla_write_kv(Exec& exec, const MlaWriteKvArgs& a);
}  // namespace cpu

}  // namespace dsr
