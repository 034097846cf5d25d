#include "ops/mla.h"

#include "ops/dispatch.h"
#include "ops/weight_check.h"

namespace dsr {
namespace {

void expect_rope(const char* op, const RopeTable& rope, int64_t width) {
  Dim P{"P"};
  expect(op, "rope.cos", rope.cos, DType::kF32, {P, width / 2});
  expect(op, "rope.sin", rope.sin, DType::kF32, {P, width / 2});
}

void expect_cache(const char* op, const MlaCacheView& cache) {
  Dim n_blocks{"n_blocks"};
  expect(op, "cache.pages", cache.pages, DType::kU8, {n_blocks, cache.format.page_bytes()});
}

void check(Exec& exec, const char* op, const MlaWriteKvArgs& a) {
  const MlaRowFormat& f = a.cache.format;
  Dim T{"T"};
  expect(op, "kv_a", a.kv_a, exec.activation_dtype(), {T, f.kv_lora_rank + f.qk_rope_head_dim});
  expect(op, "weight", a.weight, DType::kF32, {f.kv_lora_rank});
  expect_rope(op, a.rope, f.qk_rope_head_dim);
  expect(op, "positions", a.positions, DType::kI32, {T});
  expect(op, "slots", a.slots, DType::kI64, {T});
  expect_cache(op, a.cache);
}

void check(Exec& exec, const char* op, const MlaQueryArgs& a) {
  Dim T{"T"}, H{"H"}, out_dim{"kv_lora_rank + qk_rope_head_dim"}, qk_dim{"qk_head_dim"};
  const int64_t kv_lora_rank = a.kv_b_proj.columns();
  expect(op, "out", a.out, exec.activation_dtype(), {T, H, out_dim});
  expect(op, "q", a.q, exec.activation_dtype(), {T, H, qk_dim});
  const int64_t rope_dim = out_dim.value() - kv_lora_rank;
  const int64_t nope_dim = qk_dim.value() - rope_dim;
  DSR_CHECK(rope_dim > 0 && nope_dim > 0, a.out.text(), a.q.text(), a.kv_b_proj.text());
  expect_weight(op, "kv_b_proj", a.kv_b_proj, H.value() * (nope_dim + a.v_head_dim), kv_lora_rank);
  expect_rope(op, a.rope, rope_dim);
  expect(op, "positions", a.positions, DType::kI32, {T});
}

void check(Exec& exec, const char* op, const MlaAttentionArgs& a) {
  const MlaRowFormat& f = a.cache.format;
  Dim T{"T"}, H{"H"}, S{"S"}, max_blocks{"max_blocks"};
  expect(op, "q", a.q, exec.activation_dtype(), {T, H, f.kv_lora_rank + f.qk_rope_head_dim});
  expect(op, "out", a.out, exec.activation_dtype(), {T, H, f.kv_lora_rank});
  expect_cache(op, a.cache);
  expect(op, "positions", a.positions, DType::kI32, {T});
  expect(op, "block_table", a.block_table, DType::kI32, {S, max_blocks});
  expect(op, "cu_seqlens_q", a.cu_seqlens_q, DType::kI32, {S.value() + 1});
}

void check(Exec& exec, const char* op, const MlaValueArgs& a) {
  Dim T{"T"}, H{"H"}, v_dim{"v_head_dim"};
  expect(op, "latent", a.latent, exec.activation_dtype(), {T, H, a.kv_b_proj.columns()});
  expect(op, "out", a.out, exec.activation_dtype(), {T, H, v_dim});
  expect_weight(op, "kv_b_proj", a.kv_b_proj, H.value() * (a.qk_nope_head_dim + v_dim.value()),
                a.kv_b_proj.columns());
}

}  // namespace

void ops::mla_write_kv(Exec& exec, const MlaWriteKvArgs& a) {
  check(exec, "mla_write_kv", a);
  if (a.kv_a.shape[0] == 0) return;
  DSR_DISPATCH(exec, mla_write_kv, a);
}

void ops::mla_query(Exec& exec, const MlaQueryArgs& a) {
  check(exec, "mla_query", a);
  if (a.q.shape[0] == 0) return;
  DSR_DISPATCH(exec, mla_query, a);
}

void ops::mla_attention(Exec& exec, const MlaAttentionArgs& a) {
  check(exec, "mla_attention", a);
  if (a.q.shape[0] == 0) return;
  DSR_DISPATCH(exec, mla_attention, a);
}

void ops::mla_value(Exec& exec, const MlaValueArgs& a) {
  check(exec, "mla_value", a);
  if (a.latent.shape[0] == 0) return;
  DSR_DISPATCH(exec, mla_value, a);
}

void ops::mla_query_and_write(Exec& exec, const MlaQueryAndWriteArgs& a) {
  constexpr char kOp[] = "mla_query_and_write";
  check(exec, kOp, a.query);
  check(exec, kOp, a.write);
  DSR_CHECK(a.query.q.shape[0] == a.write.kv_a.shape[0], a.query.q.text(), a.write.kv_a.text());
  if (a.query.q.shape[0] == 0) return;
  DSR_DISPATCH(exec, mla_query_and_write, a);
}

void ops::mla_attention_and_value(Exec& exec, const MlaAttentionAndValueArgs& a) {
  constexpr char kOp[] = "mla_attention_and_value";
  check(exec, kOp, a.attention);
  check(exec, kOp, a.value);
  DSR_CHECK(a.attention.out.data == a.value.latent.data, a.attention.out.text());
  if (a.attention.q.shape[0] == 0) return;
  DSR_DISPATCH(exec, mla_attention_and_value, a);
}

bool ops::mla_expands(Exec& exec, const MlaPromptShape& s) {
#ifdef DSR_HAVE_CUDA
  return exec.backend() == Backend::kCuda && s.n_pairs > 0 && cuda::mla_expands(exec, s);
#else
  return exec.backend() == Backend::kCuda && s.n_pairs > 0;  // no such Exec in this build
#endif
}

void ops::mla_expanded_attention(Exec& exec, const MlaExpandedArgs& a) {
  constexpr char kOp[] = "mla_expanded_attention";
  const MlaRowFormat& f = a.cache.format;
  Dim T{"T"}, H{"H"}, S{"S"}, v_dim{"v_head_dim"}, qk_dim{"qk_head_dim"}, max_blocks{"max_blocks"};
  expect(kOp, "q", a.q, exec.activation_dtype(), {T, H, qk_dim});
  expect(kOp, "out", a.out, exec.activation_dtype(), {T, H, v_dim});
  expect_weight(kOp, "kv_b_proj", a.kv_b_proj,
                H.value() * (qk_dim.value() - f.qk_rope_head_dim + v_dim.value()), f.kv_lora_rank);
  expect_rope(kOp, a.rope, f.qk_rope_head_dim);
  expect_cache(kOp, a.cache);
  expect(kOp, "positions", a.positions, DType::kI32, {T});
  expect(kOp, "block_table", a.block_table, DType::kI32, {S, max_blocks});
  expect(kOp, "cu_seqlens_q", a.cu_seqlens_q, DType::kI32, {S.value() + 1});
  if (T.value() == 0) return;
  DSR_DISPATCH(exec, mla_expanded_attention, a);
}

}  // namespace dsr
