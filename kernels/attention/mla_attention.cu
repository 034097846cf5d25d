// mla_attention on CUDA. Definition and shapes: ops/mla.h.
//
// The tiled kernels for the rows of released models as bf16 or fp8, the plain one for the rest;
// decode rows of the former have their own on sm_90.
#include "attention/mla_kernels.h"
#include "attention/mla_rows.cuh"
#include "attention/plain_attention.cuh"
#include "attention/tiled_attention.cuh"
#include "common/rows.cuh"
#include "ops/mla.h"

namespace dsr::cuda {
namespace {

bool is_tiled(const MlaAttentionArgs& a) {
  const MlaRowFormat& f = a.cache.format;
  return f.type != CacheType::kF32 && f.kv_lora_rank == MlaShape::kValueWidth &&
         f.kv_lora_rank + f.qk_rope_head_dim == MlaShape::kKeyWidth && rows_allow_16(a.q) &&
         rows_allow_16(a.out);
}

}  // namespace

void mla_attention(Exec& exec, const MlaAttentionArgs& a) {
  const MlaRowFormat& f = a.cache.format;
  const int64_t T = a.q.shape[0], H = a.q.shape[1], S = a.block_table.shape[0];
  const bool own_decode = is_tiled(a) && exec.cuda().arch() >= 90;
  if (own_decode) mla_decode_sm90(exec, a);
  if (own_decode && T <= S) return;
  const Arena::Scope scope(exec.scratch());
  const Partials partials = own_decode
                                ? Partials{nullptr, nullptr, 1, narrow(H), narrow(f.kv_lora_rank)}
                                : take_partials(exec, S, a.block_table.shape[1], H, f.kv_lora_rank);
  const PagedBatch batch = paged_batch(a);
  if (is_tiled(a)) {
    const TiledParams p = {.out = head_rows(a.out),
                           .q = head_rows(a.q),
                           .cos = nullptr,
                           .sin = nullptr,
                           .pages = a.cache.pages.ptr<std::byte>(),
                           .page_bytes = f.page_bytes(),
                           .batch = batch,
                           .partials = partials,
                           .heads_per_kv_head = narrow(H),
                           .scale_log2 = scale_log2(a),
                           .prefill_only = own_decode};
    if (f.type == CacheType::kFP8)
      tiled_attention<MlaFp8Shape>(exec, "mla_attention", p, T, S, 1);
    else
      tiled_attention<MlaShape>(exec, "mla_attention", p, T, S, 1);
  } else {
    plain_attention(
        exec, "mla_attention",
        {.out = head_rows(a.out),
         .q = head_rows(a.q),
         .pages = a.cache.pages.ptr<std::byte>(),
         .page_bytes = f.page_bytes(),
         .batch = batch,
         .partials = partials,
         .heads_per_kv_head = narrow(H),
         .key_width = narrow(f.kv_lora_rank + f.qk_rope_head_dim),
         .value_width = narrow(f.kv_lora_rank),
         .scale_log2 = scale_log2(a)},
        MlaRows{f.type, narrow(f.kv_lora_rank), narrow(f.qk_rope_head_dim), narrow(f.row_bytes())},
        T, S, H);
  }
  merge_splits(exec, "mla_attention: merge", a.out, partials, batch, S);
}

void mla_attention_and_value(Exec& exec, const MlaAttentionAndValueArgs& a) {
  const bool all_decode = a.attention.q.shape[0] <= a.attention.block_table.shape[0];
  if (all_decode && is_tiled(a.attention) && exec.cuda().arch() >= 90) {
    const auto value = value_product(a.value);
    if (value && mla_merges_value(exec, *value))
      return mla_decode_value_sm90(exec, a.attention, *value);
  }
  mla_attention(exec, a.attention);
  mla_value(exec, a.value);
}

}  // namespace dsr::cuda
