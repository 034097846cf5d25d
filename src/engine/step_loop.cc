#include "engine/step_loop.h"

#include <algorithm>
#include <map>
#include <utility>

namespace dsr {
namespace {

using LogProbsOfRequests = std::map<RequestId, TokenLogProbs>;

// Whose row each is; of the likeliest tokens as many as that request asked for.
LogProbsOfRequests by_request(const StepPlan& plan, std::vector<TokenLogProbs> rows) {
  LogProbsOfRequests out;
  size_t next_row = 0;
  for (const Slice& slice : plan.slices) {
    const int64_t wanted = slice.request->request.sampling.logprobs;
    if (!slice.wants_logits || wanted < 0) continue;
    TokenLogProbs& row = rows.at(next_row++);
    row.top.resize(std::min(row.top.size(), static_cast<size_t>(wanted)));
    out[slice.request->id] = std::move(row);
  }
  return out;
}

}  // namespace

std::vector<StepOutput> StepLoop::step() {
  if (started_.empty()) {
    if (scheduler_.idle()) return {};
    StepPlan plan = scheduler_.next();
    if (plan.slices.empty()) return scheduler_.commit(plan, {});
    start(std::move(plan));
  }
  StepPlan ahead = scheduler_.next_ahead(started_.back());
  if (!ahead.slices.empty()) start(std::move(ahead));
  std::vector<StepOutput> outputs = finish();
  while (scheduler_.idle() && !started_.empty()) finish();  // nobody would come for it
  return outputs;
}

void StepLoop::start(StepPlan plan) {
  runner_.start(plan);
  started_.push_back(std::move(plan));
}

std::vector<StepOutput> StepLoop::finish() {
  const StepPlan plan = std::move(started_.front());
  started_.pop_front();
  StepResult result = runner_.finish();
  LogProbsOfRequests log_probs = by_request(plan, std::move(result.log_probs));
  std::vector<StepOutput> outputs =
      scheduler_.commit(plan, result.tokens, started_.empty() ? StepPlan() : started_.front());
  for (StepOutput& out : outputs)
    if (!out.tokens.empty() && log_probs.contains(out.request))
      out.log_probs.push_back(std::move(log_probs.at(out.request)));
  return outputs;
}

}  // namespace dsr
