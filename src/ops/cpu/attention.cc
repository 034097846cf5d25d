#include "ops/cpu/attention.h"

#include "ops/cpu/row_streams.h"

namespace dsr::cpu {

std::vector<int64_t> sequence_of_tokens(const Tensor& cu_seqlens_q, int64_t T) {
  std::vector<int64_t> out(static_cast<size_t>(T));
  const auto* cu = cu_seqlens_q.ptr<int32_t>();
  for (int64_t s = 0; s + 1 < cu_seqlens_q.shape[0]; ++s)
    std::fill(out.begin() + cu[s], out.begin() + cu[s + 1], s);
  return out;
}

int64_t seen_tokens(const Tensor& positions) {
  int64_t sum = 0;
  for (int64_t t = 0; t < positions.shape[0]; ++t) sum += *positions.ptr<int32_t>(t) + 1;
  return sum;
}

void PagedAttention::begin(const HeadGroup& g) {
  std::fill_n(max_, kHeadsAtOnce, -std::numeric_limits<float>::infinity());
  std::fill_n(total_, kHeadsAtOnce, 0.0);
  sum_.assign(static_cast<size_t>(g.heads * g.value_columns), 0.0f);
}

void PagedAttention::add_scores(const HeadGroup& g, const PageRows& rows, int64_t n) {
  const RowStreams streams(n);
  DotArgs a{};
  for (int64_t r = 0; r < kDotRows; ++r) {
    a.rows[r] = a.next[r] = rows.keys + streams.first(r) * rows.key_stride;
    a.out[r] = p_[0] + streams.first(r);
  }
  a.row_bytes = rows.key_stride * int64_t{sizeof(float)};
  a.steps = streams.steps();
  std::copy_n(g.q, g.heads, a.x);
  a.tokens = g.heads;
  a.columns = g.key_columns;
  a.row_stride = 1;
  a.token_stride = kPageTokens;
  loops_.dots_f32(a);
  for (int64_t h = 0; h < g.heads; ++h)
    for (int64_t s = 0; s < n; ++s) p_[h][s] *= g.softmax_scale;
}

void PagedAttention::add_page(const HeadGroup& g, const PageRows& rows, int64_t n) {
  add_scores(g, rows, n);
  for (int64_t h = 0; h < g.heads; ++h) {
    const float max = std::max(max_[h], *std::max_element(p_[h], p_[h] + n));
    // What was summed so far is relative to the old maximum; exp(-inf) = 0 where there was none.
    const float fade = max == max_[h] ? 1.0f : std::exp(max_[h] - max);
    max_[h] = max;
    total_[h] *= static_cast<double>(fade);
    float* sum = sum_.data() + h * g.value_columns;
    if (fade != 1.0f)
      for (int64_t c = 0; c < g.value_columns; ++c) sum[c] *= fade;
    loops_.exp_minus(p_[h], max, n, p_[h]);
    for (int64_t s = 0; s < n; ++s) total_[h] += static_cast<double>(p_[h][s]);
  }
  loops_.add_weighted_rows({.p = p_[0],
                            .p_stride = kPageTokens,
                            .queries = g.heads,
                            .rows = rows.values,
                            .row_stride = rows.value_stride,
                            .n = n,
                            .sum = sum_.data(),
                            .sum_stride = g.value_columns,
                            .columns = g.value_columns});
}

}  // namespace dsr::cpu
