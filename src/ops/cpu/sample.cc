// Sampling on the cpu: rows are shared out, and of a row only what may be kept becomes a candidate.
// What is kept is what the definition keeps, to the last id: see few_likeliest.
#include "ops/sample.h"

#include <algorithm>
#include <limits>

#include "ops/cpu/inner_loops.h"
#include "ops/ref/sample_row.h"

namespace dsr::cpu {
namespace {

using Candidates = std::vector<ref::Candidate>;

constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr float kLowest = std::numeric_limits<float>::lowest();

// Divides by the temperature; kNever where an id is not allowed, and nowhere else.
void scale(ref::Row& logits, const SampleRow& row, const Tensor& allowed) {
  constexpr size_t kIds = 32;  // of a word of `allowed`
  for (size_t first = 0; first < logits.size(); first += kIds) {
    const size_t end = std::min(first + kIds, logits.size());
    for (size_t id = first; id < end; ++id)
      logits[id] = std::max(kLowest, logits[id] / row.temperature);
    if (allowed.ptr<int32_t>()[first / kIds] == -1) continue;
    for (size_t id = first; id < end; ++id)
      if (!ref::is_allowed(allowed, id)) logits[id] = kNever;
  }
}

Candidates at_least(const ref::Row& logits, float least) {
  Candidates out;
  for (size_t id = 0; id < logits.size(); ++id)
    if (logits[id] >= least) out.push_back({static_cast<int32_t>(id), logits[id]});
  return out;
}

float largest(const ref::Row& values) {
  float most[kLanes];
  std::fill_n(most, kLanes, values[0]);
  size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes)
    for (size_t j = 0; j < kLanes; ++j) most[j] = values[i + j] > most[j] ? values[i + j] : most[j];
  for (; i < values.size(); ++i) most[0] = std::max(most[0], values[i]);
  return *std::max_element(most, most + kLanes);
}

// The sum of all likelihoods relative to the best, within kTotalError of itself.
constexpr double kTotalError = 0x1p-16;
double total_likelihood(const InnerLoops& loops, const ref::Row& logits, float best) {
  // An exponential is off by 2^-22 of itself, and by as much as its argument is, which float32
  // rounds by 2^-18 at most before it is kept above -86.6. A lane adds up 32 of them: by 2^-19
  // more.
  constexpr size_t kAtOnce = 32 * kLanes;
  double total = 0;
  for (size_t first = 0; first < logits.size(); first += kAtOnce) {
    const size_t n = std::min(kAtOnce, logits.size() - first);
    float values[kAtOnce];
    loops.exp_minus(logits.data() + first, best, static_cast<int64_t>(n), values);
    std::fill(values + n, values + kAtOnce, 0.0f);
    float sums[kLanes] = {};
    for (size_t i = 0; i < kAtOnce; i += kLanes)
      for (size_t j = 0; j < kLanes; ++j) sums[j] += values[i + j];
    for (const float sum : sums) total += static_cast<double>(sum);
  }
  return total;
}

// What top_p keeps of all, found among the few that are within a factor of the best: they are the
// first in the definition's order, so its sums are theirs, and only its total is not known exactly.
// Nothing where they are not enough, or where a sum is so close that the total would have to be.
Candidates few_likeliest(const InnerLoops& loops, const ref::Row& logits, double top_p) {
  const float best = largest(logits);
  const double wanted = top_p * total_likelihood(loops, logits, best);
  for (const float reach : {4.0f, 12.0f}) {
    Candidates out = at_least(logits, best - reach);
    std::sort(out.begin(), out.end(), ref::more_probable);
    double sum = 0;
    size_t n = 0;
    while (n < out.size() && sum < wanted * (1 - kTotalError))
      sum += ref::likelihood(out[n++], out[0]);
    if (sum < wanted * (1 - kTotalError)) continue;
    if (sum < wanted * (1 + kTotalError)) break;
    out.resize(n);
    return out;
  }
  return {};
}

Candidates kept(const InnerLoops& loops, ref::Row& logits, const SampleRow& row,
                const Tensor& allowed) {
  scale(logits, row, allowed);
  SampleRow cuts = row;  // those that are left
  Candidates out;
  if (row.top_k == 0 && row.top_p < 1)
    out = few_likeliest(loops, logits, static_cast<double>(row.top_p));
  if (!out.empty()) {
    cuts.top_p = 1;
  } else {
    out = at_least(logits, kLowest);
    DSR_CHECK(!out.empty());
    if (row.top_k > 0 && static_cast<size_t>(row.top_k) < out.size()) {
      std::nth_element(out.begin(), out.begin() + row.top_k, out.end(), ref::more_probable);
      out.resize(static_cast<size_t>(row.top_k));
    }
  }
  if (cuts.top_p >= 1 && cuts.min_p > 0) {  // no need to sort what is far from kept
    const float best = std::min_element(out.begin(), out.end(), ref::more_probable)->logit;
    const float far = best + std::log(cuts.min_p) - 1;
    std::erase_if(out, [&](const ref::Candidate& c) { return c.logit < far; });
  }
  // The order of what is drawn from does not matter.
  return cuts.top_p < 1 || cuts.min_p > 0 ? ref::kept(std::move(out), cuts) : out;
}

}  // namespace

void sample(Exec& exec, const SampleArgs& a) {
  const InnerLoops& loops = inner_loops(exec.cpu().level());
  exec.cpu().parallel(a.logits.shape[0], 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      ref::sample_row(a, r, [&](ref::Row& logits, const SampleRow& row, const Tensor& allowed) {
        return kept(loops, logits, row, allowed);
      });
  });
}

}  // namespace dsr::cpu
