// The stages of sampling a row that every host backend shares; they differ in how they find what
// top_k, top_p and min_p keep.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/rng.h"
#include "ops/ref/rows.h"
#include "ops/sample.h"

namespace dsr::ref {

struct Candidate {
  int32_t id;
  float logit;  // divided by the temperature
};

inline bool is_allowed(const Tensor& allowed, size_t id) {
  const auto word = static_cast<uint32_t>(allowed.ptr<int32_t>()[id / 32]);
  return ((word >> (id % 32)) & 1u) != 0;
}

inline void apply_penalties(Row& logits, const SampleRow& row, const Tensor& history) {
  std::vector<int32_t> window(history.ptr<int32_t>() + row.history_begin,
                              history.ptr<int32_t>() + row.history_end);
  std::sort(window.begin(), window.end());
  for (size_t i = 0; i < window.size();) {
    const size_t first = i;
    while (i < window.size() && window[i] == window[first]) ++i;
    if (window[first] < 0 || static_cast<size_t>(window[first]) >= logits.size()) continue;
    float& logit = logits[static_cast<size_t>(window[first])];
    logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    logit -= row.presence_penalty + row.frequency_penalty * static_cast<float>(i - first);
  }
}

inline float gumbel(const SampleRow& row, int32_t id) {
  const PhiloxBlock block = philox4x32(
      row.seed, {static_cast<uint32_t>(row.position), static_cast<uint32_t>(row.position >> 32),
                 static_cast<uint32_t>(row.sample_index), static_cast<uint32_t>(id)});
  return -std::log(-std::log(uniform_open(block[0])));
}

// The lower id of equals.
inline int32_t most_probable(const Row& logits, const Tensor& allowed) {
  size_t best = logits.size();
  for (size_t id = 0; id < logits.size(); ++id)
    if ((best == logits.size() || logits[id] > logits[best]) && is_allowed(allowed, id)) best = id;
  DSR_CHECK(best < logits.size());
  return static_cast<int32_t>(best);
}

// kept(candidates, row) are those that may be drawn, in any order.
template <typename Kept>
int32_t draw(const Row& logits, const SampleRow& row, const Tensor& allowed, const Kept& kept) {
  if (row.temperature == 0) return most_probable(logits, allowed);
  std::vector<Candidate> candidates;
  candidates.reserve(logits.size());
  for (size_t id = 0; id < logits.size(); ++id)
    if (is_allowed(allowed, id))
      candidates.push_back({static_cast<int32_t>(id), logits[id] / row.temperature});
  DSR_CHECK(!candidates.empty());
  int32_t token = -1;
  float best = 0;
  for (const Candidate& c : kept(std::move(candidates), row)) {
    const float value = c.logit + gumbel(row, c.id);
    if (token < 0 || value > best || (value == best && c.id < token)) {
      token = c.id;
      best = value;
    }
  }
  return token;
}

// Row r of the batch.
template <typename Kept>
void sample_row(const SampleArgs& a, int64_t r, const Kept& kept) {
  Row logits = load_row(a.logits, r);
  const bool finite =
      std::all_of(logits.begin(), logits.end(), [](float v) { return std::isfinite(v); });
  *a.non_finite.ptr<int32_t>(r) = finite ? 0 : 1;
  *a.token_ids.ptr<int32_t>(r) = -1;
  if (!finite) return;
  SampleRow row;
  std::memcpy(&row, a.rows.at(r), sizeof row);
  if (row.history_end > row.history_begin) apply_penalties(logits, row, a.history);
  for (int32_t i = row.bias_begin; i < row.bias_end; ++i) {
    const int32_t id = a.bias_ids.ptr<int32_t>()[i];
    DSR_CHECK(id >= 0 && static_cast<size_t>(id) < logits.size(), id);
    logits[static_cast<size_t>(id)] += a.bias_values.ptr<float>()[i];
  }
  *a.token_ids.ptr<int32_t>(r) = draw(logits, row, a.allowed, kept);
}

}  // namespace dsr::ref
