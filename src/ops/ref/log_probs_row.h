// One row of log_probs, for every host backend.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "ops/log_probs.h"
#include "ops/ref/rows.h"

namespace dsr::ref {

// Entry l of the outputs. Of a row that is not finite nothing is likely: ids -1, values 0.
inline void log_probs_row(const LogProbsArgs& a, int64_t l) {
  const auto K = static_cast<size_t>(a.top_ids.shape[1]);
  const int64_t row = *a.rows.ptr<int32_t>(l);
  DSR_CHECK(row >= 0 && row < a.logits.shape[0], row);
  const Row logits = load_row(a.logits, row);
  const int32_t token = *a.token_ids.ptr<int32_t>(row);
  float& log_prob = *a.log_probs.ptr<float>(l);
  auto* const top_ids = static_cast<int32_t*>(a.top_ids.at(l));
  auto* const top_log_probs = static_cast<float*>(a.top_log_probs.at(l));
  if (token < 0) {
    log_prob = 0;
    std::fill_n(top_ids, K, -1);
    std::fill_n(top_log_probs, K, 0.0f);
    return;
  }
  const auto max = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - max);
  const double log_sum = std::log(sum);
  const auto log_prob_of = [&](int32_t id) {
    return static_cast<float>(static_cast<double>(logits[static_cast<size_t>(id)]) - max - log_sum);
  };
  log_prob = log_prob_of(token);

  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(K), order.end(),
                    [&](int32_t x, int32_t y) {
                      const float lx = logits[static_cast<size_t>(x)];
                      const float ly = logits[static_cast<size_t>(y)];
                      return lx != ly ? lx > ly : x < y;
                    });
  for (size_t i = 0; i < K; ++i) {
    top_ids[i] = order[i];
    top_log_probs[i] = log_prob_of(order[i]);
  }
}

}  // namespace dsr::ref
