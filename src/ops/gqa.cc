#include "ops/gqa.h"

#include "ops/dispatch.h"
#include "tensor/expect.h"

namespace dsr {
namespace {

void expect_cache_and_rope(const char* op, const GqaCacheView& cache, const RopeTable& rope) {
  Dim n_blocks{"n_blocks"}, P{"P"};
  expect(op, "cache.pages", cache.pages, DType::kU8, {n_blocks, cache.format.page_bytes()});
  expect(op, "rope.cos", rope.cos, DType::kF32, {P, cache.format.head_dim / 2});
  expect(op, "rope.sin", rope.sin, DType::kF32, {P, cache.format.head_dim / 2});
}

}  // namespace

void ops::gqa_write_kv(Exec& exec, const GqaWriteKvArgs& a) {
  constexpr char kOp[] = "gqa_write_kv";
  const GqaPageFormat& f = a.cache.format;
  Dim T{"T"};
  expect(kOp, "k", a.k, exec.activation_dtype(), {T, f.n_kv_heads, f.head_dim});
  expect(kOp, "v", a.v, exec.activation_dtype(), {T, f.n_kv_heads, f.head_dim});
  expect_cache_and_rope(kOp, a.cache, a.rope);
  expect(kOp, "positions", a.positions, DType::kI32, {T});
  expect(kOp, "slots", a.slots, DType::kI64, {T});
  if (T.value() == 0) return;
  DSR_DISPATCH(exec, gqa_write_kv, a);
}

void ops::gqa_attention(Exec& exec, const GqaAttentionArgs& a) {
  constexpr char kOp[] = "gqa_attention";
  const GqaPageFormat& f = a.cache.format;
  Dim T{"T"}, H{"H"}, S{"S"}, max_blocks{"max_blocks"};
  expect(kOp, "q", a.q, exec.activation_dtype(), {T, H, f.head_dim});
  expect(kOp, "out", a.out, exec.activation_dtype(), {T, H, f.head_dim});
  DSR_CHECK(f.n_kv_heads > 0 && H.value() % f.n_kv_heads == 0, H.value(), f.n_kv_heads);
  expect_cache_and_rope(kOp, a.cache, a.rope);
  expect(kOp, "positions", a.positions, DType::kI32, {T});
  expect(kOp, "block_table", a.block_table, DType::kI32, {S, max_blocks});
  expect(kOp, "cu_seqlens_q", a.cu_seqlens_q, DType::kI32, {S.value() + 1});
  if (T.value() == 0) return;
  DSR_DISPATCH(exec, gqa_attention, a);
}

}  // namespace dsr
