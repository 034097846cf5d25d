// Multi-head latent attention on the cpu, absorbed.
#include "ops/mla.h"

#include "ops/cpu/add_rows.h"
#include "ops/cpu/attention.h"
#include "ops/cpu/tiles.h"
#include "ops/ref/attention.h"

namespace dsr::cpu {
void mla_write_kv(Exec& exec, const MlaWriteKvArgs& a) {
  exec.cpu().parallel(a.kv_a.shape[0], 4, [&](int64_t begin, int64_t end) {
    MlaWriteKvArgs part = a;
    part.kv_a = rows(a.kv_a, begin, end - begin);
    part.positions = rows(a.positions, begin, end - begin);
    part.slots = rows(a.slots, begin, end - begin);
    ref::mla_write_kv(exec, part);
  });
}

void mla_query(Exec& exec, const MlaQueryArgs& a) {
  if (a.kv_b_proj.segments.size() != 1) return ref::mla_query(exec, a);
  const InnerLoops& loops = inner_loops(exec.cpu().level());
  const int64_t T = a.q.shape[0], H = a.q.shape[1], C = a.kv_b_proj.columns();
  const int64_t rope_dim = a.out.shape[2] - C, nope = a.q.shape[2] - rope_dim;
  exec.cpu().parallel(H, grain(T * nope * C), [&](int64_t begin, int64_t end) {
    std::vector<float> memory;
    for (int64_t h = begin; h < end; ++h) {
      for (int64_t t = 0; t < T; ++t) std::fill_n(a.out.ptr<float>(t, h), C, 0.0f);
      add_rows(loops,
               {.segment = a.kv_b_proj.segments[0],
                .quant = a.kv_b_proj.quant,
                .first_row = h * (nope + a.v_head_dim),
                .rows = nope,
                .x = a.q.ptr<float>(0, h),
                .x_stride = a.q.strides[0],
                .tokens = T,
                .sum = a.out.ptr<float>(0, h),
                .sum_stride = a.out.strides[0],
                .next_row = (h + 1) * (nope + a.v_head_dim)},
               memory);
      for (int64_t t = 0; t < T; ++t) {
        float* rope = a.out.ptr<float>(t, h) + C;
        std::copy_n(a.q.ptr<float>(t, h) + nope, rope_dim, rope);
        ref::rope_interleaved(rope, a.rope, *a.positions.ptr<int32_t>(t));
      }
    }
  });
}

void mla_attention(Exec& exec, const MlaAttentionArgs& a) {
  const InnerLoops& loops = inner_loops(exec.cpu().level());
  const int64_t T = a.q.shape[0], H = a.q.shape[1], width = a.q.shape[2], C = a.out.shape[2];
  const MlaRowFormat& f = a.cache.format;
  const int64_t at_once = heads_at_once(H, T, exec.cpu().threads());
  const int64_t groups = ceil_div(H, at_once);
  const std::vector<int64_t> sequence = sequence_of_tokens(a.cu_seqlens_q, T);
  // Tokens alternate between threads: the later ones of a prompt see more.
  const int64_t n_parts = exec.cpu().threads();
  const int64_t products = seen_tokens(a.positions) * H * (width + C);
  exec.cpu().parallel(n_parts, grain(products / n_parts), [&](int64_t begin, int64_t end) {
    PagedAttention attention(loops);
    std::vector<float> decoded;
    if (f.type != CacheType::kF32) decoded.resize(static_cast<size_t>(kPageTokens * width));
    for (int64_t part = begin; part < end; ++part) {
      for (int64_t i = part; i < T * groups; i += n_parts) {
        const int64_t t = i / groups, first = i % groups * at_once;
        HeadGroup g{.q = {},
                    .out = {},
                    .heads = std::min(at_once, H - first),
                    .key_columns = width,
                    .value_columns = C,
                    .softmax_scale = a.softmax_scale};
        for (int64_t h = 0; h < g.heads; ++h) {
          g.q[h] = a.q.ptr<float>(t, first + h);
          g.out[h] = a.out.ptr<float>(t, first + h);
        }
        const auto* blocks = a.block_table.ptr<int32_t>(sequence[static_cast<size_t>(t)]);
        const auto load = [&](int64_t page, int64_t n) {
          const auto* bytes = a.cache.pages.ptr<std::byte>(blocks[page]);
          const auto* rows = reinterpret_cast<const float*>(bytes);
          if (f.type != CacheType::kF32) {
            for (int64_t s = 0; s < n; ++s) {
              float* row = decoded.data() + s * width;
              f.decode(bytes + s * f.row_bytes(), row, row + C);
            }
            rows = decoded.data();
          }
          return PageRows{rows, width, rows, width};
        };
        attention.run(g, int64_t{*a.positions.ptr<int32_t>(t)} + 1, load);
      }
    }
  });
}

void mla_value(Exec& exec, const MlaValueArgs& a) {
  if (a.kv_b_proj.segments.size() != 1) return ref::mla_value(exec, a);
  const int64_t T = a.out.shape[0], H = a.out.shape[1], v_dim = a.out.shape[2];
  exec.cpu().parallel(H, grain(T * v_dim * a.latent.shape[2]), [&](int64_t begin, int64_t end) {
    std::vector<const float*> x(static_cast<size_t>(T));
    for (int64_t h = begin; h < end; ++h) {
      for (int64_t t = 0; t < T; ++t) x[static_cast<size_t>(t)] = a.latent.ptr<float>(t, h);
      const int64_t first_row = h * (a.qk_nope_head_dim + v_dim) + a.qk_nope_head_dim;
      for (int64_t i = 0; i < v_dim; i += kTileRows)
        dots(exec.cpu(), {.segment = a.kv_b_proj.segments[0],
                          .quant = a.kv_b_proj.quant,
                          .first_row = first_row + i,
                          .rows = std::min(kTileRows, v_dim - i),
                          .x = x.data(),
                          .tokens = T,
                          .out = a.out.ptr<float>(0, h) + i,
                          .token_stride = a.out.strides[0]});
    }
  });
}

void mla_query_and_write(Exec& exec, const MlaQueryAndWriteArgs& a) {
  mla_query(exec, a.query);
  mla_write_kv(exec, a.write);
}

void mla_attention_and_value(Exec& exec, const MlaAttentionAndValueArgs& a) {
  mla_attention(exec, a.attention);
  mla_value(exec, a.value);
}

}  // namespace dsr::cpu
