// mla_attention on CUDA. Definition and shapes: ops/mla.h.
//
// The tiled kernel for the rows of released models as bf16, the plain one for the rest; decode rows
// of the former have their own on sm_90.
#include "attention/mla_kernels.h"
#include "attention/plain_attention.cuh"
#include "attention/tiled_attention.cuh"
#include "common/rows.cuh"
#include "ops/mla.h"

namespace dsr::cuda {
namespace {

// One token's row in each of its formats.
struct MlaRows {
  CacheType type;
  int C, rope, row_bytes;

  struct Row {
    CacheType type;
    int C;
    const std::byte* data;
    const std::byte* scales;  // of e4m3 latents; behind them the key

    __device__ float value(int i) const {
      if (type == CacheType::kF32) return reinterpret_cast<const float*>(data)[i];
      if (type == CacheType::kBF16) return to_float(reinterpret_cast<const bf16*>(data)[i]);
      constexpr int kGroup = static_cast<int>(MlaRowFormat::kGroup);
      return to_float(reinterpret_cast<const e4m3*>(data)[i]) *
             reinterpret_cast<const float*>(scales)[i / kGroup];
    }
    __device__ float key(int i) const {
      if (type != CacheType::kFP8 || i < C) return value(i);
      constexpr int kGroup = static_cast<int>(MlaRowFormat::kGroup);
      const int n_groups = (C + kGroup - 1) / kGroup;
      return to_float(reinterpret_cast<const bf16*>(scales + 4 * n_groups)[i - C]);
    }
  };
  __device__ Row row(const std::byte* page, int, int in_page) const {
    const std::byte* data = page + in_page * row_bytes;
    return {type, C, data, data + (C + 3) / 4 * 4};
  }
  __device__ void rotate(float*, int) const {}  // mla_query did
};

bool is_tiled(const MlaAttentionArgs& a) {
  const MlaRowFormat& f = a.cache.format;
  return f.type == CacheType::kBF16 && f.kv_lora_rank == MlaShape::kValueWidth &&
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
  const PagedBatch batch = {a.positions.ptr<int32_t>(), a.cu_seqlens_q.ptr<int32_t>(),
                            a.block_table.ptr<int32_t>(), a.block_table.strides[0]};
  const float scale_log2 = a.softmax_scale * 1.44269504088896341f;
  if (is_tiled(a)) {
    tiled_attention<MlaShape>(exec, "mla_attention",
                              {.out = a.out.ptr<bf16>(),
                               .out_token_stride = a.out.strides[0],
                               .out_head_stride = a.out.strides[1],
                               .q = a.q.ptr<bf16>(),
                               .q_token_stride = a.q.strides[0],
                               .q_head_stride = a.q.strides[1],
                               .cos = nullptr,
                               .sin = nullptr,
                               .pages = a.cache.pages.ptr<std::byte>(),
                               .page_bytes = f.page_bytes(),
                               .batch = batch,
                               .partials = partials,
                               .heads_per_kv_head = narrow(H),
                               .scale_log2 = scale_log2,
                               .prefill_only = own_decode},
                              T, S, 1);
  } else {
    plain_attention(
        exec, "mla_attention",
        {.out = a.out.ptr<bf16>(),
         .out_token_stride = a.out.strides[0],
         .out_head_stride = a.out.strides[1],
         .q = a.q.ptr<bf16>(),
         .q_token_stride = a.q.strides[0],
         .q_head_stride = a.q.strides[1],
         .pages = a.cache.pages.ptr<std::byte>(),
         .page_bytes = f.page_bytes(),
         .batch = batch,
         .partials = partials,
         .heads_per_kv_head = narrow(H),
         .key_width = narrow(f.kv_lora_rank + f.qk_rope_head_dim),
         .value_width = narrow(f.kv_lora_rank),
         .scale_log2 = scale_log2},
        MlaRows{f.type, narrow(f.kv_lora_rank), narrow(f.qk_rope_head_dim), narrow(f.row_bytes())},
        T, S, H);
  }
  merge_splits(exec, "mla_attention: merge", a.out, partials, batch, S);
}

void mla_expanded_attention(Exec&, const MlaExpandedArgs&) {
  fail(ErrorKind::kDevice,
       "mla_expanded_attention: not on CUDA, where prefill is absorbed like decode");
}

}  // namespace dsr::cuda
