#include "engine/scheduler.h"

#include <algorithm>

#include "base/error.h"
#include "kv/kv_layout.h"

namespace dsr {

SequenceId Scheduler::open_sequence() {
  kept_[next_sequence_] = std::make_shared<Sequence>(pool_);
  return next_sequence_++;
}

void Scheduler::close_sequence(SequenceId id) { kept_.erase(id); }

void Scheduler::check(const Request& request) const {
  const auto n = static_cast<int64_t>(request.prompt.size());
  if (n == 0) fail_usage("prompt is empty");
  if (n >= limits_.ctx_size)  // the answer needs room for a token
    fail_usage("prompt ", with_commas(n), " tokens, context ", with_commas(limits_.ctx_size));
  if (request.max_new_tokens > 0 && n + request.max_new_tokens > limits_.ctx_size)
    fail_usage("prompt ", with_commas(n), " tokens and ", with_commas(request.max_new_tokens),
               " new ones, context ", with_commas(limits_.ctx_size));
  if (request.max_new_tokens < -1 || request.max_new_tokens == 0)
    fail_usage("max_new_tokens is ", request.max_new_tokens, ", expected -1 or at least 1");
  if (request.assumed_tokens < 0 || request.assumed_tokens >= n)
    fail_usage("assumed_tokens are ", request.assumed_tokens, " of a prompt of ", n);
  if (request.sequence != 0 && !kept_.contains(request.sequence))
    fail_usage("sequence ", request.sequence, " is not open");
}

RequestId Scheduler::submit(Request request) {
  check(request);
  auto r = std::make_unique<RunningRequest>();
  r->id = next_request_++;
  const auto n = static_cast<int64_t>(request.prompt.size());
  r->max_tokens = request.max_new_tokens < 0 ? limits_.ctx_size : n + request.max_new_tokens;
  r->sequence =
      request.sequence == 0 ? std::make_shared<Sequence>(pool_) : kept_.at(request.sequence);
  const auto same = [&](const auto& other) { return other->sequence == r->sequence; };
  if (std::any_of(waiting_.begin(), waiting_.end(), same) ||
      std::any_of(running_.begin(), running_.end(), same))
    fail_usage("sequence ", request.sequence, " is busy with another request");
  r->sampler.emplace(request.sampling, limits_.dry_breakers);
  r->request = std::move(request);
  waiting_.push_back(std::move(r));
  return next_request_ - 1;
}

void Scheduler::cancel(RequestId id) {
  for (const auto& r : waiting_) r->cancelled = r->cancelled || r->id == id;
  for (const auto& r : running_) r->cancelled = r->cancelled || r->id == id;
}

bool Scheduler::admit(RunningRequest& r) {
  const int64_t reused = r.sequence->start_prompt(r.request.prompt);
  // The last token that is generated is never run, so it needs no place in the cache.
  if (!r.sequence->reserve(std::max(r.max_tokens - 1, reused + 1))) return false;
  stats_.prompt_tokens_reused += reused;
  if (r.request.assumed_tokens > reused)
    r.sequence->mark_computed(r.request.assumed_tokens - reused);
  return true;
}

bool Scheduler::admit_by_eviction(RunningRequest& r) {
  const auto runs = [&](const Sequence& s) {
    return std::any_of(running_.begin(), running_.end(),
                       [&](const auto& other) { return other->sequence.get() == &s; });
  };
  // Sequences that are kept, or wait with a request: their keys can be computed again.
  std::vector<Sequence*> idle;
  for (const auto& [id, sequence] : kept_) idle.push_back(sequence.get());
  for (const auto& waiting : waiting_) idle.push_back(waiting->sequence.get());
  for (Sequence* sequence : idle) {
    if (sequence == r.sequence.get() || sequence->blocks().empty() || runs(*sequence)) continue;
    sequence->forget_keys();
    if (admit(r)) return true;
  }
  return false;
}

StepPlan Scheduler::next() {
  while (!waiting_.empty()) {
    RunningRequest& r = *waiting_.front();
    const bool place_left = static_cast<int64_t>(running_.size()) < limits_.max_seqs;
    if (!r.cancelled && !(place_left && (admit(r) || admit_by_eviction(r)))) break;
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
  DSR_CHECK(waiting_.empty() || !running_.empty(), pool_.n_free());
  StepPlan plan;
  for (const auto& r : running_) {
    if (r->cancelled) continue;
    const int64_t first = r->sequence->n_computed();
    const auto n = static_cast<int64_t>(r->sequence->tokens().size());
    const int64_t end = std::min(n, (first / limits_.chunk + 1) * limits_.chunk);
    plan.slices.push_back({r.get(), first, end - first, end == n});
  }
  return plan;
}

FinishReason Scheduler::accept(RunningRequest& r, TokenId token, StepOutput& out) {
  if (token < 0) return FinishReason::kError;
  const bool eos =
      std::find(limits_.eos_ids.begin(), limits_.eos_ids.end(), token) != limits_.eos_ids.end();
  if (eos && !r.request.ignore_eos) return FinishReason::kStop;
  r.sequence->append(token);
  out.tokens.push_back(token);
  ++stats_.tokens_generated;
  const auto n = static_cast<int64_t>(r.sequence->tokens().size());
  const bool loops = r.sampler->push(token);
  if (n >= r.max_tokens) return FinishReason::kLength;
  return loops ? FinishReason::kRepetition : FinishReason::kNone;
}

std::vector<StepOutput> Scheduler::commit(const StepPlan& plan,
                                          const std::vector<TokenId>& tokens) {
  std::vector<StepOutput> outputs;
  size_t next_token = 0;
  for (const Slice& slice : plan.slices) {
    RunningRequest& r = *slice.request;
    const auto prompt_end = static_cast<int64_t>(r.request.prompt.size());
    stats_.prompt_tokens_computed +=
        std::max<int64_t>(0, std::min(slice.first + slice.count, prompt_end) - slice.first);
    r.sequence->mark_computed(slice.count);
    if (!slice.wants_logits) continue;
    StepOutput out{r.id, {}, FinishReason::kNone};
    out.finish = accept(r, tokens.at(next_token++), out);
    outputs.push_back(std::move(out));
  }
  if (!plan.slices.empty()) ++stats_.steps;
  for (const auto& r : running_)
    if (r->cancelled && std::none_of(outputs.begin(), outputs.end(),
                                     [&](const StepOutput& o) { return o.request == r->id; }))
      outputs.push_back({r->id, {}, FinishReason::kCancelled});
  std::erase_if(running_, [&](const std::unique_ptr<RunningRequest>& r) {
    const bool ended = std::any_of(outputs.begin(), outputs.end(), [&](const StepOutput& o) {
      return o.request == r->id && o.finish != FinishReason::kNone;
    });
    if (ended) r->sequence->drop_unused_blocks();
    return ended;
  });
  return outputs;
}

}  // namespace dsr
