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

namespace {

// What a thread computes attention with.
class LatentAttention {
 public:
  LatentAttention(const InnerLoops& loops, const MlaAttentionArgs& a) : a_(a), attention_(loops) {
    if (a.cache.format.type != CacheType::kF32)
      decoded_.resize(static_cast<size_t>(kPageTokens * width()));
  }

  // `n` heads from `first` on of token t, which is of sequence s.
  void run(int64_t t, int64_t s, int64_t first, int64_t n) {
    HeadGroup g{.q = {},
                .out = {},
                .heads = n,
                .key_columns = width(),
                .value_columns = a_.out.shape[2],
                .softmax_scale = a_.softmax_scale};
    for (int64_t h = 0; h < n; ++h) {
      g.q[h] = a_.q.ptr<float>(t, first + h);
      g.out[h] = a_.out.ptr<float>(t, first + h);
    }
    const auto* blocks = a_.block_table.ptr<int32_t>(s);
    attention_.run(g, int64_t{*a_.positions.ptr<int32_t>(t)} + 1,
                   [&](int64_t page, int64_t rows) { return load(blocks[page], rows); });
  }

 private:
  int64_t width() const { return a_.q.shape[2]; }
  PageRows load(int64_t block, int64_t n) {
    const MlaRowFormat& f = a_.cache.format;
    const auto* bytes = a_.cache.pages.ptr<std::byte>(block);
    const auto* rows = reinterpret_cast<const float*>(bytes);
    if (f.type != CacheType::kF32) {
      for (int64_t s = 0; s < n; ++s) {
        float* row = decoded_.data() + s * width();
        f.decode(bytes + s * f.row_bytes(), row, row + a_.out.shape[2]);
      }
      rows = decoded_.data();
    }
    return {rows, width(), rows, width()};
  }

  const MlaAttentionArgs& a_;
  PagedAttention attention_;
  std::vector<float> decoded_;
};

void value_of_heads(CpuContext& cpu, const MlaValueArgs& a, int64_t begin, int64_t end) {
  const int64_t T = a.out.shape[0], v_dim = a.out.shape[2];
  std::vector<const float*> x(static_cast<size_t>(T));
  for (int64_t h = begin; h < end; ++h) {
    for (int64_t t = 0; t < T; ++t) x[static_cast<size_t>(t)] = a.latent.ptr<float>(t, h);
    const int64_t first_row = h * (a.qk_nope_head_dim + v_dim) + a.qk_nope_head_dim;
    for (int64_t i = 0; i < v_dim; i += kTileRows)
      dots(cpu, {.segment = a.kv_b_proj.segments[0],
                 .quant = a.kv_b_proj.quant,
                 .first_row = first_row + i,
                 .rows = std::min(kTileRows, v_dim - i),
                 .x = x.data(),
                 .tokens = T,
                 .out = a.out.ptr<float>(0, h) + i,
                 .token_stride = a.out.strides[0]});
  }
}

}  // namespace

void mla_attention(Exec& exec, const MlaAttentionArgs& a) {
  const InnerLoops& loops = inner_loops(exec.cpu().level());
  const int64_t T = a.q.shape[0], H = a.q.shape[1], width = a.q.shape[2], C = a.out.shape[2];
  const int64_t at_once = heads_at_once(H, T, exec.cpu().threads());
  const int64_t groups = ceil_div(H, at_once);
  const std::vector<int64_t> sequence = sequence_of_tokens(a.cu_seqlens_q, T);
  // Tokens alternate between threads: the later ones of a prompt see more.
  const int64_t n_parts = exec.cpu().threads();
  const int64_t products = seen_tokens(a.positions) * H * (width + C);
  exec.cpu().parallel(n_parts, grain(products / n_parts), [&](int64_t begin, int64_t end) {
    LatentAttention attention(loops, a);
    for (int64_t part = begin; part < end; ++part)
      for (int64_t i = part; i < T * groups; i += n_parts) {
        const int64_t t = i / groups, first = i % groups * at_once;
        attention.run(t, sequence[static_cast<size_t>(t)], first, std::min(at_once, H - first));
      }
  });
}

void mla_value(Exec& exec, const MlaValueArgs& a) {
  if (a.kv_b_proj.segments.size() != 1) return ref::mla_value(exec, a);
  const int64_t T = a.out.shape[0], H = a.out.shape[1], v_dim = a.out.shape[2];
  exec.cpu().parallel(H, grain(T * v_dim * a.latent.shape[2]), [&](int64_t begin, int64_t end) {
    value_of_heads(exec.cpu(), a, begin, end);
  });
}

void mla_query_and_write(Exec& exec, const MlaQueryAndWriteArgs& a) {
  mla_query(exec, a.query);
  mla_write_kv(exec, a.write);
}

void mla_attention_and_value(Exec& exec, const MlaAttentionAndValueArgs& a) {
  const int64_t T = a.value.out.shape[0], H = a.value.out.shape[1], threads = exec.cpu().threads();
  const int64_t at_once = heads_at_once(H, T, threads), groups = ceil_div(H, at_once);
  if (T != 1 || groups < threads || a.value.kv_b_proj.segments.size() != 1) {
    mla_attention(exec, a.attention);
    return mla_value(exec, a.value);
  }
  // Heads by heads: nobody waits for those of others.
  const InnerLoops& loops = inner_loops(exec.cpu().level());
  const int64_t s = sequence_of_tokens(a.attention.cu_seqlens_q, 1)[0];
  const int64_t rows = a.value.out.shape[2] + seen_tokens(a.attention.positions);
  exec.cpu().parallel(groups, grain(at_once * rows * a.value.latent.shape[2]),
                      [&](int64_t begin, int64_t end) {
                        LatentAttention attention(loops, a.attention);
                        for (int64_t g = begin; g < end; ++g) {
                          const int64_t first = g * at_once, n = std::min(at_once, H - first);
                          attention.run(0, s, first, n);
                          value_of_heads(exec.cpu(), a.value, first, first + n);
                        }
                      });
}

}  // namespace dsr::cpu
