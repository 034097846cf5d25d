#include "ops/gqa.h"

#include "ops/ref/attention.h"

namespace dsr {
namespace {

using ref::Row;

// The cached keys and values 0..n-1 of one sequence, decoded: [n][G * d].
struct KeysAndValues {
  std::vector<Row> k, v;
};

KeysAndValues cached(const GqaCacheView& cache, const int32_t* blocks, int64_t n) {
  const GqaPageFormat& f = cache.format;
  const Row empty(static_cast<size_t>(f.n_kv_heads * f.head_dim));
  KeysAndValues out{std::vector<Row>(static_cast<size_t>(n), empty),
                    std::vector<Row>(static_cast<size_t>(n), empty)};
  for (int64_t s = 0; s < n; ++s) {
    const auto* page = cache.pages.ptr<std::byte>(blocks[s / kPageTokens]);
    for (int64_t g = 0; g < f.n_kv_heads; ++g) {
      float* k = out.k[static_cast<size_t>(s)].data() + g * f.head_dim;
      float* v = out.v[static_cast<size_t>(s)].data() + g * f.head_dim;
      f.decode_key(page, g, s % kPageTokens, k);
      f.decode_value(page, g, s % kPageTokens, v);
    }
  }
  return out;
}

// A [G, d] slice of one token as one row.
Row load_heads(const Tensor& x, int64_t t) {
  const int64_t d = x.shape[2];
  Row out(static_cast<size_t>(x.shape[1] * d));
  for (int64_t h = 0; h < x.shape[1]; ++h) ref::load_row(x, t, h, out.data() + h * d);
  return out;
}

}  // namespace

void ref::gqa_write_kv(Exec&, const GqaWriteKvArgs& a) {
  const GqaPageFormat& f = a.cache.format;
  for (int64_t t = 0; t < a.k.shape[0]; ++t) {
    Row k = load_heads(a.k, t);
    const Row v = load_heads(a.v, t);
    for (int64_t g = 0; g < f.n_kv_heads; ++g)
      rope_half_split(k.data() + g * f.head_dim, a.rope, *a.positions.ptr<int32_t>(t));
    const int64_t slot = *a.slots.ptr<int64_t>(t);
    f.encode(k.data(), v.data(), a.cache.pages.ptr<std::byte>(slot / kPageTokens),
             slot % kPageTokens);
  }
}

void ref::gqa_attention(Exec&, const GqaAttentionArgs& a) {
  const int64_t H = a.q.shape[1], d = a.q.shape[2];
  const int64_t queries_per_kv_head = H / a.cache.format.n_kv_heads;
  for_each_query(
      {a.positions, a.cu_seqlens_q, a.block_table},
      [&](const int32_t* blocks, int64_t n) { return cached(a.cache, blocks, n); },
      [&](int64_t t, const KeysAndValues& kv, int64_t n) {
        for (int64_t h = 0; h < H; ++h) {
          const int64_t kv_column = h / queries_per_kv_head * d;
          Row q = load_row(a.q, t, h);
          rope_half_split(q.data(), a.rope, *a.positions.ptr<int32_t>(t));
          std::vector<double> p(static_cast<size_t>(n));
          for (size_t s = 0; s < p.size(); ++s)
            p[s] =
                dot(q.data(), kv.k[s].data() + kv_column, d) * static_cast<double>(a.softmax_scale);
          softmax(p);
          std::vector<double> sum(static_cast<size_t>(d), 0.0);
          for (size_t s = 0; s < p.size(); ++s)
            for (size_t i = 0; i < sum.size(); ++i)
              sum[i] += p[s] * static_cast<double>(kv.v[s][static_cast<size_t>(kv_column) + i]);
          store_row(a.out, t, h, Row(sum.begin(), sum.end()).data());
        }
      });
}

}  // namespace dsr
