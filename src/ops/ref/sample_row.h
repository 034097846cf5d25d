// The stages of sampling a row, which host backends share. They differ in how they find what top_k,
// top_p and min_p keep.
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

inline std::vector<Candidate> candidates(const Row& logits, const SampleRow& row,
                                         const Tensor& allowed) {
  std::vector<Candidate> out;
  out.reserve(logits.size());
  for (size_t id = 0; id < logits.size(); ++id)
    if (is_allowed(allowed, id))
      out.push_back({static_cast<int32_t>(id), logits[id] / row.temperature});
  DSR_CHECK(!out.empty());
  return out;
}

inline bool more_probable(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// Relative to the likeliest.
inline double likelihood(const Candidate& c, const Candidate& best) {
  return std::exp(static_cast<double>(c.logit) - static_cast<double>(best.logit));
}

// Those that top_k, top_p and min_p keep: sorted by probability, largest first, the lower id first
// among equals; then cut.
inline std::vector<Candidate> kept(std::vector<Candidate> all, const SampleRow& row) {
  std::sort(all.begin(), all.end(), more_probable);
  if (row.top_k > 0 && static_cast<size_t>(row.top_k) < all.size())
    all.resize(static_cast<size_t>(row.top_k));
  const Candidate best = all.front();
  if (row.top_p < 1) {
    double total = 0;
    for (const Candidate& c : all) total += likelihood(c, best);
    double sum = 0;
    size_t n = 0;
    while (n < all.size() && sum < static_cast<double>(row.top_p) * total)
      sum += likelihood(all[n++], best);
    all.resize(std::max<size_t>(n, 1));
  }
  if (row.min_p > 0) {
    const auto cut = std::find_if(all.begin(), all.end(), [&](const Candidate& c) {
      return likelihood(c, best) < static_cast<double>(row.min_p);
    });
    all.erase(cut, all.end());
  }
  return all;
}

// Of what is kept, in any order.
inline int32_t draw(const std::vector<Candidate>& kept, const SampleRow& row) {
  int32_t token = -1;
  float best = 0;
  for (const Candidate& c : kept) {
    const float value = c.logit + gumbel(row, c.id);
    if (token < 0 || value > best || (value == best && c.id < token)) {
      token = c.id;
      best = value;
    }
  }
  return token;
}

// Row r of the batch. kept(logits, row, allowed) are the candidates that may be drawn. It may
// change the logits: they are a copy.
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
  *a.token_ids.ptr<int32_t>(r) = row.temperature == 0 ? most_probable(logits, a.allowed)
                                                      : draw(kept(logits, row, a.allowed), row);
}

}  // namespace dsr::ref
