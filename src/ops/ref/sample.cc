#include "ops/sample.h"

#include "ops/ref/sample_row.h"

namespace dsr {
namespace {

using ref::Candidate;

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

}  // namespace

void ref::sample(Exec&, const SampleArgs& a) {
  for (int64_t r = 0; r < a.logits.shape[0]; ++r) sample_row(a, r, kept);
}

}  // namespace dsr
