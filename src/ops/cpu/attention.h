// Attention of a few query heads over paged keys and values, page by page with a running maximum
// (Milakov and Gimelshein 2018, arXiv:1805.02867). The order depends on the token's own position
// alone, so neither neighbours nor chunks nor threads change a bit.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/math.h"
#include "ops/cpu/inner_loops.h"
#include "tensor/kv_format.h"

namespace dsr::cpu {

// Heads that read the same keys at once, at most.
inline constexpr int64_t kHeadsAtOnce = 8;
// How many of `heads` do, of each of `n` sets of keys: fewer where the threads would lack work.
inline int64_t heads_at_once(int64_t heads, int64_t n, int64_t threads) {
  const bool enough = n * ceil_div(heads, kHeadsAtOnce) >= 2 * threads;
  return enough ? kHeadsAtOnce : kHeadsAtOnce / 2;
}

// Keys and values of a page's tokens as float32.
struct PageRows {
  const float* keys;
  int64_t key_stride;
  const float* values;
  int64_t value_stride;
};

struct HeadGroup {
  const float* q[kHeadsAtOnce];  // [key_columns], where a key is rotated already rotated
  float* out[kHeadsAtOnce];      // [value_columns]
  int64_t heads;
  int64_t key_columns, value_columns;
  float softmax_scale;
};

// The sequence that owns each of T tokens.
std::vector<int64_t> sequence_of_tokens(const Tensor& cu_seqlens_q, int64_t T);

// How many tokens all queries see together.
int64_t seen_tokens(const Tensor& positions);

class PagedAttention {
 public:
  explicit PagedAttention(const InnerLoops& loops) : loops_(loops) {}

  // load_page(i, n) gives the first n tokens of the sequence's page i; `tokens` are seen in all.
  template <typename LoadPage>
  void run(const HeadGroup& g, int64_t tokens, const LoadPage& load_page) {
    begin(g);
    for (int64_t page = 0; page * kPageTokens < tokens; ++page) {
      const int64_t n = std::min(kPageTokens, tokens - page * kPageTokens);
      add_page(g, load_page(page, n), n);
    }
    for (int64_t h = 0; h < g.heads; ++h) {
      const auto inverse = static_cast<float>(1.0 / total_[h]);
      const float* sum = sum_.data() + h * g.value_columns;
      for (int64_t c = 0; c < g.value_columns; ++c) g.out[h][c] = sum[c] * inverse;
    }
  }

 private:
  void begin(const HeadGroup& g);
  void add_page(const HeadGroup& g, const PageRows& rows, int64_t n);
  void add_scores(const HeadGroup& g, const PageRows& rows, int64_t n);

  const InnerLoops& loops_;
  float p_[kHeadsAtOnce][kPageTokens];
  float max_[kHeadsAtOnce];
  double total_[kHeadsAtOnce];
  std::vector<float> sum_;  // [heads][value_columns]
};

}  // namespace dsr::cpu
