// Multi-head and grouped-query attention on the cpu.
#include "ops/gqa.h"

#include "ops/cpu/attention.h"
#include "ops/cpu/tiles.h"
#include "ops/ref/attention.h"

namespace dsr::cpu {

void gqa_write_kv(Exec& exec, const GqaWriteKvArgs& a) {
  exec.cpu().parallel(a.k.shape[0], 4, [&](int64_t begin, int64_t end) {
    GqaWriteKvArgs part = a;
    part.k = rows(a.k, begin, end - begin);
    part.v = rows(a.v, begin, end - begin);
    part.positions = rows(a.positions, begin, end - begin);
    part.slots = rows(a.slots, begin, end - begin);
    ref::gqa_write_kv(exec, part);
  });
}

void gqa_attention(Exec& exec, const GqaAttentionArgs& a) {
  const InnerLoops& loops = inner_loops(exec.cpu().level());
  const int64_t T = a.q.shape[0], H = a.q.shape[1], d = a.q.shape[2];
  const GqaPageFormat& f = a.cache.format;
  const int64_t per_kv_head = H / f.n_kv_heads;
  const int64_t at_once = heads_at_once(per_kv_head, T * f.n_kv_heads, exec.cpu().threads());
  const int64_t groups = ceil_div(per_kv_head, at_once);
  const int64_t tasks = T * f.n_kv_heads * groups;
  const std::vector<int64_t> sequence = sequence_of_tokens(a.cu_seqlens_q, T);
  const int64_t n_parts = exec.cpu().threads();
  const int64_t products = seen_tokens(a.positions) * 2 * H * d;
  exec.cpu().parallel(n_parts, grain(products / n_parts), [&](int64_t begin, int64_t end) {
    PagedAttention attention(loops);
    std::vector<float> q(static_cast<size_t>(kHeadsAtOnce * d));
    std::vector<float> keys, values;
    if (f.type != CacheType::kF32) keys.resize(static_cast<size_t>(kPageTokens * d));
    values.resize(keys.size());
    for (int64_t part = begin; part < end; ++part) {
      for (int64_t i = part; i < tasks; i += n_parts) {
        const int64_t t = i / (f.n_kv_heads * groups), kv_head = i / groups % f.n_kv_heads;
        const int64_t first = i % groups * at_once;
        const int64_t position = *a.positions.ptr<int32_t>(t);
        HeadGroup g{.q = {},
                    .out = {},
                    .heads = std::min(at_once, per_kv_head - first),
                    .key_columns = d,
                    .value_columns = d,
                    .softmax_scale = a.softmax_scale};
        for (int64_t h = 0; h < g.heads; ++h) {
          const int64_t head = kv_head * per_kv_head + first + h;
          float* rotated = q.data() + h * d;
          std::copy_n(a.q.ptr<float>(t, head), d, rotated);
          ref::rope_half_split(rotated, a.rope, position);
          g.q[h] = rotated;
          g.out[h] = a.out.ptr<float>(t, head);
        }
        const auto* blocks = a.block_table.ptr<int32_t>(sequence[static_cast<size_t>(t)]);
        const auto load = [&](int64_t page, int64_t n) {
          const auto* bytes = a.cache.pages.ptr<std::byte>(blocks[page]);
          if (f.type == CacheType::kF32) {
            // [kv_head][kPageTokens][head_dim], keys before values
            const auto* k = reinterpret_cast<const float*>(bytes) + kv_head * kPageTokens * d;
            return PageRows{k, d, k + f.n_kv_heads * kPageTokens * d, d};
          }
          for (int64_t s = 0; s < n; ++s) {
            f.decode_key(bytes, kv_head, s, keys.data() + s * d);
            f.decode_value(bytes, kv_head, s, values.data() + s * d);
          }
          return PageRows{keys.data(), d, values.data(), d};
        };
        attention.run(g, position + 1, load);
      }
    }
  });
}

}  // namespace dsr::cpu
