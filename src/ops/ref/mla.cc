#include "ops/mla.h"

#include "ops/ref/attention.h"
#include "ops/ref/rms_norm_row.h"
#include "ops/ref/weight_rows.h"

namespace dsr {
namespace {

using ref::Row;

// kv_b_proj as its rows; row h * (nope + v) + i.
std::vector<Row> kv_b_rows(const Weight& w) {
  std::vector<Row> out;
  ref::for_each_row(w,
                    [&](int64_t, const float* row) { out.emplace_back(row, row + w.columns()); });
  return out;
}

// The cached rows 0..n-1 of one sequence, decoded: [n][kv_lora_rank | rope].
std::vector<Row> cached_rows(const MlaCacheView& cache, const int32_t* blocks, int64_t n) {
  const MlaRowFormat& f = cache.format;
  std::vector<Row> out(static_cast<size_t>(n),
                       Row(static_cast<size_t>(f.kv_lora_rank + f.qk_rope_head_dim)));
  for (int64_t s = 0; s < n; ++s) {
    const auto* page = cache.pages.ptr<std::byte>(blocks[s / kPageTokens]);
    float* row = out[static_cast<size_t>(s)].data();
    f.decode(page + (s % kPageTokens) * f.row_bytes(), row, row + f.kv_lora_rank);
  }
  return out;
}

}  // namespace

void ref::mla_write_kv(Exec&, const MlaWriteKvArgs& a) {
  const MlaRowFormat& f = a.cache.format;
  for (int64_t t = 0; t < a.kv_a.shape[0]; ++t) {
    const Row kv = load_row(a.kv_a, t);
    Row latent(kv.begin(), kv.begin() + f.kv_lora_rank);
    Row k_pe(kv.begin() + f.kv_lora_rank, kv.end());
    rms_norm_row(latent, a.weight.ptr<float>(), a.eps);
    rope_interleaved(k_pe.data(), a.rope, *a.positions.ptr<int32_t>(t));
    const int64_t slot = *a.slots.ptr<int64_t>(t);
    auto* page = a.cache.pages.ptr<std::byte>(slot / kPageTokens);
    f.encode(latent.data(), k_pe.data(), page + (slot % kPageTokens) * f.row_bytes());
  }
}

void ref::mla_query(Exec&, const MlaQueryArgs& a) {
  const int64_t T = a.q.shape[0], H = a.q.shape[1], C = a.kv_b_proj.columns();
  const int64_t rope_dim = a.out.shape[2] - C, nope = a.q.shape[2] - rope_dim;
  const std::vector<Row> kv_b = kv_b_rows(a.kv_b_proj);
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t h = 0; h < H; ++h) {
      Row q = load_row(a.q, t, h);
      std::vector<double> latent(static_cast<size_t>(C), 0.0);
      for (int64_t i = 0; i < nope; ++i) {
        const Row& w = kv_b[static_cast<size_t>(h * (nope + a.v_head_dim) + i)];
        const auto q_i = static_cast<double>(q[static_cast<size_t>(i)]);
        for (size_t c = 0; c < latent.size(); ++c) latent[c] += q_i * static_cast<double>(w[c]);
      }
      rope_interleaved(q.data() + nope, a.rope, *a.positions.ptr<int32_t>(t));
      Row out(latent.begin(), latent.end());
      out.insert(out.end(), q.begin() + nope, q.end());
      store_row(a.out, t, h, out.data());
    }
  }
}

void ref::mla_attention(Exec&, const MlaAttentionArgs& a) {
  const int64_t H = a.q.shape[1], width = a.q.shape[2], C = a.out.shape[2];
  for_each_query(
      {a.positions, a.cu_seqlens_q, a.block_table},
      [&](const int32_t* blocks, int64_t n) { return cached_rows(a.cache, blocks, n); },
      [&](int64_t t, const std::vector<Row>& rows, int64_t n) {
        for (int64_t h = 0; h < H; ++h) {
          const Row q = load_row(a.q, t, h);
          std::vector<double> p(static_cast<size_t>(n));
          for (size_t s = 0; s < p.size(); ++s)
            p[s] = dot(q.data(), rows[s].data(), width) * static_cast<double>(a.softmax_scale);
          softmax(p);
          std::vector<double> sum(static_cast<size_t>(C), 0.0);
          for (size_t s = 0; s < p.size(); ++s)
            for (size_t c = 0; c < sum.size(); ++c)
              sum[c] += p[s] * static_cast<double>(rows[s][c]);
          store_row(a.out, t, h, Row(sum.begin(), sum.end()).data());
        }
      });
}

void ref::mla_value(Exec&, const MlaValueArgs& a) {
  const int64_t T = a.out.shape[0], H = a.out.shape[1], v_dim = a.out.shape[2];
  const int64_t C = a.latent.shape[2];
  const std::vector<Row> kv_b = kv_b_rows(a.kv_b_proj);
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t h = 0; h < H; ++h) {
      const Row latent = load_row(a.latent, t, h);
      Row out(static_cast<size_t>(v_dim));
      for (int64_t i = 0; i < v_dim; ++i) {
        const int64_t row = h * (a.qk_nope_head_dim + v_dim) + a.qk_nope_head_dim + i;
        out[static_cast<size_t>(i)] =
            static_cast<float>(dot(latent.data(), kv_b[static_cast<size_t>(row)].data(), C));
      }
      store_row(a.out, t, h, out.data());
    }
  }
}

void ref::mla_query_and_write(Exec& exec, const MlaQueryAndWriteArgs& a) {
  mla_query(exec, a.query);
  mla_write_kv(exec, a.write);
}

void ref::mla_attention_and_value(Exec& exec, const MlaAttentionAndValueArgs& a) {
  mla_attention(exec, a.attention);
  mla_value(exec, a.value);
}

void ref::mla_expanded_attention(Exec&, const MlaExpandedArgs& a) {
  const int64_t H = a.q.shape[1], v_dim = a.out.shape[2], C = a.cache.format.kv_lora_rank;
  const int64_t rope_dim = a.cache.format.qk_rope_head_dim, nope = a.q.shape[2] - rope_dim;
  const std::vector<Row> kv_b = kv_b_rows(a.kv_b_proj);
  for_each_query(
      {a.positions, a.cu_seqlens_q, a.block_table},
      [&](const int32_t* blocks, int64_t n) { return cached_rows(a.cache, blocks, n); },
      [&](int64_t t, const std::vector<Row>& rows, int64_t n) {
        for (int64_t h = 0; h < H; ++h) {
          const Row* head = kv_b.data() + h * (nope + v_dim);
          Row q = load_row(a.q, t, h);
          rope_interleaved(q.data() + nope, a.rope, *a.positions.ptr<int32_t>(t));
          std::vector<double> p(static_cast<size_t>(n));
          for (size_t s = 0; s < p.size(); ++s) {
            double score = dot(q.data() + nope, rows[s].data() + C, rope_dim);
            for (int64_t i = 0; i < nope; ++i)
              score += static_cast<double>(q[static_cast<size_t>(i)]) *
                       dot(head[i].data(), rows[s].data(), C);  // k_nope[i] of token s
            p[s] = score * static_cast<double>(a.softmax_scale);
          }
          softmax(p);
          Row out(static_cast<size_t>(v_dim));
          for (int64_t i = 0; i < v_dim; ++i) {
            double sum = 0;
            for (size_t s = 0; s < p.size(); ++s)
              sum += p[s] * dot(head[nope + i].data(), rows[s].data(), C);  // v[i] of token s
            out[static_cast<size_t>(i)] = static_cast<float>(sum);
          }
          store_row(a.out, t, h, out.data());
        }
      });
}

}  // namespace dsr
