// What the tests of sampling share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <vector>

#include "base/math.h"
#include "ops/sample.h"
#include "support/backends_under_test.h"

namespace dsr::test {

struct Drawn {
  std::vector<int32_t> tokens, non_finite;
};

class SampleTest : public OpTest {
 protected:
  // All ids may be drawn, unless `masked`.
  Tensor allowed(int64_t V, const std::set<int64_t>& masked = {}) {
    std::vector<int32_t> words(static_cast<size_t>(ceil_div(V, 32)), 0);
    for (int64_t id = 0; id < V; ++id)
      if (!masked.contains(id))
        words[static_cast<size_t>(id / 32)] |= static_cast<int32_t>(1u << (id % 32));
    return make.i32({static_cast<int64_t>(words.size())}, words);
  }

  Drawn sample(const Tensor& logits, const std::vector<SampleRow>& rows,
               const std::set<int64_t>& masked = {}) {
    return sample_on(exec, logits, rows, masked);
  }
  Drawn sample_on(Exec& on, const Tensor& logits, const std::vector<SampleRow>& rows,
                  const std::set<int64_t>& masked = {}) {
    const auto R = static_cast<int64_t>(rows.size());
    const Tensor bytes = make.empty(DType::kU8, {R, int64_t{sizeof(SampleRow)}});
    if (R > 0) std::memcpy(bytes.data, rows.data(), rows.size() * sizeof(SampleRow));
    const Tensor ids = make.empty(DType::kI32, {R}), flags = make.empty(DType::kI32, {R});
    ops::sample(on, {.token_ids = ids,
                     .non_finite = flags,
                     .logits = logits,
                     .rows = bytes,
                     .allowed = allowed(logits.shape[1], masked),
                     .history = history,
                     .bias_ids = bias_ids,
                     .bias_values = bias_values});
    return {{ids.ptr<int32_t>(), ids.ptr<int32_t>() + R},
            {flags.ptr<int32_t>(), flags.ptr<int32_t>() + R}};
  }

  // The same logits n times, drawn at the positions 0..n-1.
  std::vector<int32_t> draws(const std::vector<float>& logits, SampleRow row, int64_t n) {
    constexpr int64_t kBatch = 1000;
    std::vector<int32_t> out;
    std::vector<float> all;
    for (int64_t i = 0; i < kBatch; ++i) all.insert(all.end(), logits.begin(), logits.end());
    const Tensor t = make.f32({kBatch, static_cast<int64_t>(logits.size())}, all);
    while (static_cast<int64_t>(out.size()) < n) {
      std::vector<SampleRow> rows(static_cast<size_t>(kBatch), row);
      for (SampleRow& r : rows) r.position = row.position++;
      const Drawn d = sample(t, rows);
      out.insert(out.end(), d.tokens.begin(), d.tokens.end());
    }
    out.resize(static_cast<size_t>(n));
    return out;
  }

  Tensor history, bias_ids, bias_values;
};

// Stages 3 and 4: the logits after penalties and biases, in double. A window's tokens count at most
// once for the repetition and presence penalties.
inline std::vector<double> moved(const std::vector<float>& logits, const SampleRow& row,
                                 const Tensor& history, const Tensor& bias_ids,
                                 const Tensor& bias_values) {
  std::vector<double> out(logits.begin(), logits.end());
  for (size_t id = 0; id < out.size(); ++id) {
    int64_t times = 0;
    for (int32_t i = row.history_begin; i < row.history_end; ++i)
      times += *history.ptr<int32_t>(i) == static_cast<int32_t>(id) ? 1 : 0;
    if (times > 0) {
      const auto penalty = static_cast<double>(row.repetition_penalty);
      out[id] = out[id] > 0 ? out[id] / penalty : out[id] * penalty;
      out[id] -= static_cast<double>(row.presence_penalty) +
                 static_cast<double>(row.frequency_penalty) * static_cast<double>(times);
    }
    for (int32_t i = row.bias_begin; i < row.bias_end; ++i)
      if (*bias_ids.ptr<int32_t>(i) == static_cast<int32_t>(id))
        out[id] += static_cast<double>(*bias_values.ptr<float>(i));
  }
  return out;
}

// Stage 6: the ids that top_k, top_p and min_p keep, and their probabilities, in double.
template <typename Number>
std::map<int32_t, double> kept(const std::vector<Number>& logits, const SampleRow& row) {
  const auto max = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  const auto weight_of = [&](Number logit) {
    return std::exp((static_cast<double>(logit) - max) / static_cast<double>(row.temperature));
  };
  std::vector<std::pair<double, int32_t>> p;  // (-weight, id): largest first, then the lower id
  for (size_t i = 0; i < logits.size(); ++i)
    p.push_back({-weight_of(logits[i]), static_cast<int32_t>(i)});
  std::sort(p.begin(), p.end());
  if (row.top_k > 0) p.resize(std::min(p.size(), static_cast<size_t>(row.top_k)));
  double total = 0, sum = 0;
  for (const auto& [weight, id] : p) total -= weight;
  size_t n = 0;
  while (n < p.size() && (row.top_p >= 1 || sum < static_cast<double>(row.top_p) * total))
    sum -= p[n++].first;
  p.resize(n);
  std::erase_if(p, [&, best = p.front().first](const auto& c) {
    return c.first > static_cast<double>(row.min_p) * best;  // both are negative
  });
  total = 0;
  for (const auto& [weight, id] : p) total -= weight;
  std::map<int32_t, double> out;
  for (const auto& [weight, id] : p) out[id] = -weight / total;
  return out;
}

}  // namespace dsr::test
