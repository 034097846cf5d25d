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

}  // namespace

void ops::mla_write_kv(Exec& exec, const MlaWriteKvArgs& a) {
  constexpr char kOp[] = "mla_write_kv";
  const MlaRowFormat& f = a.cache.format;
  Dim T{"T"};
  expect(kOp, "kv_a", a.kv_a, exec.activation_dtype(), {T, f.kv_lora_rank + f.qk_rope_head_dim});
  expect(kOp, "weight", a.weight, DType::kF32, {f.kv_lora_rank});
  expect_rope(kOp, a.rope, f.qk_rope_head_dim);
  expect(kOp, "positions", a.positions, DType::kI32, {T});
  expect(kOp, "slots", a.slots, DType::kI64, {T});
  expect_cache(kOp, a.cache);
  if (T.value() == 0) return;
  DSR_DISPATCH(exec, mla_write_kv, a);
}

void ops::mla_query(Exec& exec, const MlaQueryArgs& a) {
  constexpr char kOp[] = "mla_query";
  Dim T{"T"}, H{"H"}, out_dim{"kv_lora_rank + qk_rope_head_dim"}, qk_dim{"qk_head_dim"};
  const int64_t kv_lora_rank = a.kv_b_proj.columns();
  expect(kOp, "out", a.out, exec.activation_dtype(), {T, H, out_dim});
  expect(kOp, "q", a.q, exec.activation_dtype(), {T, H, qk_dim});
  const int64_t rope_dim = out_dim.value() - kv_lora_rank;
  const int64_t nope_dim = qk_dim.value() - rope_dim;
  DSR_CHECK(rope_dim > 0 && nope_dim > 0, a.out.text(), a.q.text(), a.kv_b_proj.text());
  expect_weight(kOp, "kv_b_proj", a.kv_b_proj, H.value() * (nope_dim + a.v_head_dim), kv_lora_rank);
  expect_rope(kOp, a.rope, rope_dim);
  expect(kOp, "positions", a.positions, DType::kI32, {T});
  if (T.value() == 0) return;
  DSR_DISPATCH(exec, mla_query, a);
}

void ops::mla_attention(Exec& exec, const MlaAttentionArgs& a) {
  constexpr char kOp[] = "mla_attention";
  const MlaRowFormat& f = a.cache.format;
  Dim T{"T"}, H{"H"}, S{"S"}, max_blocks{"max_blocks"};
  expect(kOp, "q", a.q, exec.activation_dtype(), {T, H, f.kv_lora_rank + f.qk_rope_head_dim});
  expect(kOp, "out", a.out, exec.activation_dtype(), {T, H, f.kv_lora_rank});
  expect_cache(kOp, a.cache);
  expect(kOp, "positions", a.positions, DType::kI32, {T});
  expect(kOp, "block_table", a.block_table, DType::kI32, {S, max_blocks});
  expect(kOp, "cu_seqlens_q", a.cu_seqlens_q, DType::kI32, {S.value() + 1});
  if (T.value() == 0) return;
  DSR_DISPATCH(exec, mla_attention, a);
}

void ops::mla_value(Exec& exec, const MlaValueArgs& a) {
  constexpr char kOp[] = "mla_value";
  Dim T{"T"}, H{"H"}, v_dim{"v_head_dim"};
  expect(kOp, "latent", a.latent, exec.activation_dtype(), {T, H, a.kv_b_proj.columns()});
  expect(kOp, "out", a.out, exec.activation_dtype(), {T, H, v_dim});
  expect_weight(kOp, "kv_b_proj", a.kv_b_proj, H.value() * (a.qk_nope_head_dim + v_dim.value()),
                a.kv_b_proj.columns());
  if (T.value() == 0) return;
  DSR_DISPATCH(exec, mla_value, a);
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
