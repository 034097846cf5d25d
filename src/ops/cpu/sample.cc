// Sampling on the cpu: rows are shared out, and of a row only what may be kept is sorted.
#include "ops/sample.h"

#include "ops/ref/sample_row.h"

namespace dsr::cpu {
namespace {

using Candidates = std::vector<ref::Candidate>;

bool more_probable(const ref::Candidate& a, const ref::Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// The shortest run of the most probable that reaches `wanted`. Sorts a little and, where that is
// not enough, four times as much.
template <typename Likelihood>
void cut_to_top_p(Candidates& all, double wanted, const Likelihood& likelihood) {
  double sum = 0;
  size_t n = 0;
  for (size_t sorted = 0, next = 64; n < all.size() && sum < wanted; next *= 4) {
    const size_t end = std::min(next, all.size());
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(sorted);
    std::partial_sort(begin, all.begin() + static_cast<std::ptrdiff_t>(end), all.end(),
                      more_probable);
    for (sorted = end; n < sorted && sum < wanted;) sum += likelihood(all[n++]);
  }
  all.resize(std::max<size_t>(n, 1));
}

Candidates kept(Candidates all, const SampleRow& row) {
  const auto best =
      static_cast<double>(std::min_element(all.begin(), all.end(), more_probable)->logit);
  const auto likelihood = [&](const ref::Candidate& c) {
    return std::exp(static_cast<double>(c.logit) - best);  // relative to the best
  };
  if (row.top_k > 0 && static_cast<size_t>(row.top_k) < all.size()) {
    std::nth_element(all.begin(), all.begin() + row.top_k, all.end(), more_probable);
    all.resize(static_cast<size_t>(row.top_k));
  }
  if (row.top_p < 1) {
    double total = 0;
    for (const ref::Candidate& c : all) total += likelihood(c);
    cut_to_top_p(all, static_cast<double>(row.top_p) * total, likelihood);
  }
  if (row.min_p > 0)
    std::erase_if(all, [&](const ref::Candidate& c) {
      return likelihood(c) < static_cast<double>(row.min_p);
    });
  return all;
}

}  // namespace

void sample(Exec& exec, const SampleArgs& a) {
  exec.cpu().parallel(a.logits.shape[0], 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) ref::sample_row(a, r, kept);
  });
}

}  // namespace dsr::cpu
