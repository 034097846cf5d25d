// What the definitions of MLA, MHA and GQA share.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/ref/rows.h"
#include "tensor/rope.h"

namespace dsr::ref {

// Rotates the pairs (x[2i], x[2i + 1]) by the angles of `position`, in place.
inline void rope_interleaved(float* x, const RopeTable& rope, int64_t position) {
  const auto* cos = rope.cos.ptr<float>(position);
  const auto* sin = rope.sin.ptr<float>(position);
  for (int64_t i = 0; i < rope.cos.shape[1]; ++i) {
    const float even = x[2 * i], odd = x[2 * i + 1];
    x[2 * i] = even * cos[i] - odd * sin[i];
    x[2 * i + 1] = odd * cos[i] + even * sin[i];
  }
}

// Rotates the pairs (x[i], x[i + r / 2]) by the angles of `position`, in place.
inline void rope_half_split(float* x, const RopeTable& rope, int64_t position) {
  const auto* cos = rope.cos.ptr<float>(position);
  const auto* sin = rope.sin.ptr<float>(position);
  const int64_t half = rope.cos.shape[1];
  for (int64_t i = 0; i < half; ++i) {
    const float first = x[i], second = x[i + half];
    x[i] = first * cos[i] - second * sin[i];
    x[i + half] = second * cos[i] + first * sin[i];
  }
}

// softmax(scores) in place; scores are finite and not empty.
inline void softmax(std::vector<double>& scores) {
  const double max = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (double& s : scores) sum += s = std::exp(s - max);
  for (double& s : scores) s /= sum;
}

// A ragged batch of queries over a paged cache.
struct PagedQueries {
  const Tensor& positions;     // [T] i32
  const Tensor& cu_seqlens_q;  // [S + 1] i32
  const Tensor& block_table;   // [S, max_blocks] i32
};

// For every sequence calls load(blocks, n), n being the tokens its last query sees, then for every
// token t of it visit(t, loaded, how many of the n it sees, itself included).
template <typename Load, typename Visit>
void for_each_query(const PagedQueries& q, const Load& load, const Visit& visit) {
  const auto* cu = q.cu_seqlens_q.ptr<int32_t>();
  const auto* position = q.positions.ptr<int32_t>();
  for (int64_t s = 0; s < q.block_table.shape[0]; ++s) {
    if (cu[s] == cu[s + 1]) continue;
    const int64_t n = int64_t{*std::max_element(position + cu[s], position + cu[s + 1])} + 1;
    const auto loaded = load(q.block_table.ptr<int32_t>(s), n);
    for (int64_t t = cu[s]; t < cu[s + 1]; ++t) visit(t, loaded, int64_t{position[t]} + 1);
  }
}

}  // namespace dsr::ref
