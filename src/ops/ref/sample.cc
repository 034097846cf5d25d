#include "ops/sample.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/rng.h"
#include "ops/ref/rows.h"

namespace dsr {
namespace {

using ref::Row;

struct Candidate {
  int32_t id;
  float logit;  // divided by the temperature
};

bool is_allowed(const Tensor& allowed, size_t id) {
  const auto word = static_cast<uint32_t>(allowed.ptr<int32_t>()[id / 32]);
  return ((word >> (id % 32)) & 1u) != 0;
}

void apply_penalties(Row& logits, const SampleRow& row, const Tensor& history) {
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

// Sorted by probability, largest first, the lower id first among equals; then cut.
std::vector<Candidate> kept(std::vector<Candidate> all, const SampleRow& row) {
  std::sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  });
  if (row.top_k > 0 && static_cast<size_t>(row.top_k) < all.size())
    all.resize(static_cast<size_t>(row.top_k));
  const auto best = static_cast<double>(all.front().logit);
  const auto likelihood = [&](const Candidate& c) {
    return std::exp(static_cast<double>(c.logit) - best);  // relative to the best
  };
  if (row.top_p < 1) {
    double total = 0;
    for (const Candidate& c : all) total += likelihood(c);
    double sum = 0;
    size_t n = 0;
    while (n < all.size() && sum < static_cast<double>(row.top_p) * total)
      sum += likelihood(all[n++]);
    all.resize(std::max<size_t>(n, 1));
  }
  if (row.min_p > 0) {
    const auto cut = std::find_if(all.begin(), all.end(), [&](const Candidate& c) {
      return likelihood(c) < static_cast<double>(row.min_p);
    });
    all.erase(cut, all.end());
  }
  return all;
}

float gumbel(const SampleRow& row, int32_t id) {
  const PhiloxBlock block = philox4x32(
      row.seed, {static_cast<uint32_t>(row.position), static_cast<uint32_t>(row.position >> 32),
                 static_cast<uint32_t>(row.sample_index), static_cast<uint32_t>(id)});
  return -std::log(-std::log(uniform_open(block[0])));
}

int32_t draw(const Row& logits, const SampleRow& row, const Tensor& allowed) {
  std::vector<Candidate> candidates;
  for (size_t id = 0; id < logits.size(); ++id) {
    if (!is_allowed(allowed, id)) continue;
    const float logit = row.temperature > 0 ? logits[id] / row.temperature : logits[id];
    candidates.push_back({static_cast<int32_t>(id), logit});
  }
  DSR_CHECK(!candidates.empty());
  if (row.temperature > 0) candidates = kept(std::move(candidates), row);
  int32_t token = -1;
  float best = 0;
  for (const Candidate& c : candidates) {
    const float value = row.temperature > 0 ? c.logit + gumbel(row, c.id) : c.logit;
    if (token < 0 || value > best || (value == best && c.id < token)) {
      token = c.id;
      best = value;
    }
  }
  return token;
}

}  // namespace

void ref::sample(Exec&, const SampleArgs& a) {
  for (int64_t r = 0; r < a.logits.shape[0]; ++r) {
    Row logits = load_row(a.logits, r);
    const bool finite =
        std::all_of(logits.begin(), logits.end(), [](float v) { return std::isfinite(v); });
    *a.non_finite.ptr<int32_t>(r) = finite ? 0 : 1;
    *a.token_ids.ptr<int32_t>(r) = -1;
    if (!finite) continue;
    SampleRow row;
    std::memcpy(&row, a.rows.at(r), sizeof row);
    if (row.history_end > row.history_begin) apply_penalties(logits, row, a.history);
    for (int32_t i = row.bias_begin; i < row.bias_end; ++i) {
      const int32_t id = a.bias_ids.ptr<int32_t>()[i];
      DSR_CHECK(id >= 0 && static_cast<size_t>(id) < logits.size(), id);
      logits[static_cast<size_t>(id)] += a.bias_values.ptr<float>()[i];
    }
    *a.token_ids.ptr<int32_t>(r) = draw(logits, row, a.allowed);
  }
}

}  // namespace dsr
