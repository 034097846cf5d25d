// gqa_attention on CUDA. Definition and shapes: ops/gqa.h.
//
//   heads of 128, cache in bf16   mha_decode     every head with keys of its own: tokens that are
//   or fp8                                       alone in their sequence's part of the batch
//                                 tiled          the others
//   anything else                 plain
#include "attention/mha_decode.cuh"
#include "attention/plain_attention.cuh"
#include "attention/rope.cuh"
#include "attention/tiled_attention.cuh"
#include "common/rows.cuh"
#include "ops/gqa.h"

namespace dsr::cuda {
namespace {

// One token's key and value of one head in each format.
struct GqaRows {
  CacheType type;
  int G, d;
  int64_t half_bytes;
  RopeRows rope;

  struct Row {
    CacheType type;
    const std::byte *keys, *values;
    float key_scale, value_scale;

    __device__ float element(const std::byte* data, float scale, int i) const {
      if (type == CacheType::kF32) return reinterpret_cast<const float*>(data)[i];
      if (type == CacheType::kBF16) return to_float(reinterpret_cast<const bf16*>(data)[i]);
      return to_float(reinterpret_cast<const e4m3*>(data)[i]) * scale;
    }
    __device__ float key(int i) const { return element(keys, key_scale, i); }
    __device__ float value(int i) const { return element(values, value_scale, i); }
  };
  __device__ Row row(const std::byte* page, int kv_head, int in_page) const {
    const int r = kv_head * static_cast<int>(kPageTokens) + in_page;
    const int bytes = type == CacheType::kF32 ? 4 : type == CacheType::kBF16 ? 2 : 1;
    const std::byte* keys = page + static_cast<int64_t>(r) * d * bytes;
    Row out{type, keys, keys + half_bytes, 1, 1};
    if (type == CacheType::kFP8) {
      const std::byte* scales = page + G * kPageTokens * d;
      out.key_scale = reinterpret_cast<const float*>(scales)[r];
      out.value_scale = reinterpret_cast<const float*>(scales + half_bytes)[r];
    }
    return out;
  }
  __device__ void rotate(float* q, int position) const {
    rope_half_split(q, rope, position, static_cast<int>(threadIdx.x), kPlainThreads);
  }
};

bool is_tiled(const GqaAttentionArgs& a) {
  const GqaPageFormat& f = a.cache.format;
  return f.type != CacheType::kF32 && f.head_dim == GqaShape::kKeyWidth && rows_allow_16(a.q) &&
         rows_allow_16(a.out);
}

template <typename Shape>
void attention(Exec& exec, const TiledParams& p, int64_t T, int64_t S, int64_t n_kv_heads) {
  const bool apart = p.prefill_only;  // decode rows have a kernel of their own
  if (apart) mha_decode<Shape::kFp8>(exec, "gqa_attention", p, S, n_kv_heads);
  // No more tokens than sequences: one each, as the engine gives no sequence without a token.
  if (!apart || T > S) tiled_attention<Shape>(exec, "gqa_attention", p, T, S, n_kv_heads);
}

}  // namespace

void gqa_attention(Exec& exec, const GqaAttentionArgs& a) {
  const GqaPageFormat& f = a.cache.format;
  const int64_t T = a.q.shape[0], H = a.q.shape[1], S = a.block_table.shape[0];
  const Arena::Scope scope(exec.scratch());
  const Partials partials = take_partials(exec, S, a.block_table.shape[1], H, f.head_dim);
  const PagedBatch batch = paged_batch(a);
  if (is_tiled(a)) {
    const TiledParams p = {.out = head_rows(a.out),
                           .q = head_rows(a.q),
                           .cos = a.rope.cos.ptr<float>(),
                           .sin = a.rope.sin.ptr<float>(),
                           .pages = a.cache.pages.ptr<std::byte>(),
                           .page_bytes = f.page_bytes(),
                           .batch = batch,
                           .partials = partials,
                           .heads_per_kv_head = narrow(H / f.n_kv_heads),
                           .scale_log2 = scale_log2(a),
                           .scales_at = f.n_kv_heads * kPageTokens * f.head_dim,
                           .prefill_only = H == f.n_kv_heads};
    if (f.type == CacheType::kFP8)
      attention<GqaFp8Shape>(exec, p, T, S, f.n_kv_heads);
    else
      attention<GqaShape>(exec, p, T, S, f.n_kv_heads);
  } else {
    plain_attention(
        exec, "gqa_attention",
        {.out = head_rows(a.out),
         .q = head_rows(a.q),
         .pages = a.cache.pages.ptr<std::byte>(),
         .page_bytes = f.page_bytes(),
         .batch = batch,
         .partials = partials,
         .heads_per_kv_head = narrow(H / f.n_kv_heads),
         .key_width = narrow(f.head_dim),
         .value_width = narrow(f.head_dim),
         .scale_log2 = scale_log2(a)},
        GqaRows{f.type,
                narrow(f.n_kv_heads),
                narrow(f.head_dim),
                f.page_bytes() / 2,
                {a.rope.cos.ptr<float>(), a.rope.sin.ptr<float>(), narrow(a.rope.cos.shape[1])}},
        T, S, H);
  }
  merge_splits(exec, "gqa_attention: merge", a.out, partials, batch, S);
}

}  // namespace dsr::cuda
