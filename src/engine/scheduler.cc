#include "engine/scheduler.h"

#include <algorithm>

#include "base/error.h"
#include "kv/kv_layout.h"

namespace dsr {
namespace {

int64_t size_of(const Sequence& s) { return static_cast<int64_t>(s.tokens().size()); }

// Blocks for `n` tokens, beyond those it has.
int64_t missing_blocks(const Sequence& s, int64_t n) {
  return std::max<int64_t>(0, blocks_for(n) - static_cast<int64_t>(s.blocks().size()));
}
int64_t missing_blocks(const Sequence& s) { return missing_blocks(s, size_of(s)); }

bool equal(const Sequence::BlockKey& a, const Sequence::BlockKey& b) {
  return a.before == b.before && std::equal(a.ids.begin(), a.ids.end(), b.ids.begin(), b.ids.end());
}

}  // namespace

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

int64_t Scheduler::promised_blocks() const {
  int64_t sum = 0;
  for (const auto& r : running_) sum += missing_blocks(*r->sequence);
  return sum;
}

bool Scheduler::admit(RunningRequest& r) {
  Sequence& s = *r.sequence;
  const int64_t assumed = r.request.assumed_tokens;
  if (!r.started) {
    const int64_t kept = s.start_prompt(r.request.prompt);
    if (assumed > kept) {
      if (!s.reserve(assumed)) return false;
      s.assume_computed(assumed - kept);
    }
    r.started = true;
  }
  s.find_computed();
  // What is missing is taken step by step, but it must be there.
  if (missing_blocks(s) > pool_.n_free() - promised_blocks()) {
    if (r.request.sequence == 0 && assumed == 0) s.forget_keys();
    return false;
  }
  const auto prompt = static_cast<int64_t>(r.request.prompt.size());
  stats_.prompt_tokens_reused += std::max<int64_t>(0, std::min(s.n_computed(), prompt) - assumed);
  return true;
}

void Scheduler::admit_waiting() {
  while (!waiting_.empty() && static_cast<int64_t>(running_.size()) < limits_.max_seqs) {
    RunningRequest& r = *waiting_.front();
    bool fits = r.cancelled || admit(r);
    while (!fits && reclaim(r)) fits = admit(r);
    if (!fits) break;
    r.running = true;
    r.last_turn = stats_.steps;  // behind those that have a place
    const auto later = std::find_if(running_.begin(), running_.end(),
                                    [&](const auto& other) { return other->id > r.id; });
    running_.insert(later, std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

bool Scheduler::reclaim(const RunningRequest& wanted_by) {
  const auto in_use = [&](const Sequence& s) {
    return std::any_of(running_.begin(), running_.end(),
                       [&](const auto& r) { return r->sequence.get() == &s && !r->cancelled; });
  };
  // Sequences that are kept, wait with a request or were cancelled: their keys can be computed
  // again.
  std::vector<Sequence*> idle;
  for (const auto& [id, sequence] : kept_) idle.push_back(sequence.get());
  for (const auto& r : waiting_) idle.push_back(r->sequence.get());
  for (const auto& r : running_) idle.push_back(r->sequence.get());
  for (Sequence* sequence : idle) {
    if (sequence == wanted_by.sequence.get() || sequence->blocks().empty() || in_use(*sequence))
      continue;
    sequence->forget_keys();
    return true;
  }
  return false;
}

void Scheduler::preempt(RunningRequest& r) {
  r.sequence->forget_keys();
  r.running = false;
  ++stats_.preemptions;
  const auto at = std::find_if(running_.begin(), running_.end(),
                               [&](const auto& other) { return other.get() == &r; });
  const auto later = std::find_if(waiting_.begin(), waiting_.end(),
                                  [&](const auto& other) { return other->id > r.id; });
  waiting_.insert(later, std::move(*at));
  running_.erase(at);
}

bool Scheduler::reserve_by_preemption(RunningRequest& r, int64_t n) {
  while (!r.sequence->reserve(n)) {
    if (reclaim(r)) continue;
    const auto last = std::find_if(running_.rbegin(), running_.rend(), [](const auto& other) {
      return !other->in_step && !other->cancelled;
    });
    // Of those that are not computed in this step r came last: it waits, and keeps what it has.
    if ((*last)->id <= r.id) return false;
    preempt(**last);
  }
  return true;
}

void Scheduler::add_slice(StepPlan& plan, RunningRequest& r, int64_t end) {
  const int64_t first = r.sequence->n_computed();
  r.in_step = true;
  plan.slices.push_back({&r, first, end - first, end == size_of(*r.sequence)});
}

void Scheduler::plan_decodes(StepPlan& plan) {
  for (size_t i = 0; i < running_.size(); ++i) {  // preemption makes it shorter, behind i
    RunningRequest& r = *running_[i];
    const int64_t n = size_of(*r.sequence);
    if (r.cancelled || n - r.sequence->n_computed() != 1) continue;
    if (reserve_by_preemption(r, n)) add_slice(plan, r, n);
  }
}

const RunningRequest* Scheduler::first_live() const {
  const auto at =
      std::find_if(running_.begin(), running_.end(), [](const auto& r) { return !r->cancelled; });
  return at == running_.end() ? nullptr : at->get();
}

RunningRequest& Scheduler::ahead_of(RunningRequest& r) const {
  const Sequence::BlockKey key = r.sequence->next_key();
  RunningRequest* best = &r;
  if (key.ids.empty()) return r;
  const auto rank = [](const RunningRequest& other) {
    return std::pair(other.in_step, other.sequence->n_computed());
  };
  for (const auto& other : running_)
    if (!other->cancelled && rank(*other) > rank(*best) && equal(other->sequence->next_key(), key))
      best = other.get();
  return *best;
}

bool Scheduler::plan_prompt(StepPlan& plan, RunningRequest& r, const Turn& turn) {
  const Sequence& s = *r.sequence;
  const int64_t end = std::min(size_of(s), (s.n_computed() / limits_.chunk + 1) * limits_.chunk);
  if (end - s.n_computed() > turn.tokens_left) return false;
  if (!r.sequence->reserve(end) && !(turn.may_preempt && reserve_by_preemption(r, end)))
    return false;
  add_slice(plan, r, end);
  r.last_turn = stats_.steps + 1;
  return true;
}

void Scheduler::plan_prompts(StepPlan& plan) {
  std::vector<RunningRequest*> prompts;
  for (const auto& r : running_) {
    if (r->cancelled || r->in_step) continue;
    stats_.prompt_tokens_reused += r->sequence->find_computed();
    prompts.push_back(r.get());
  }
  const RunningRequest* first = first_live();
  std::stable_sort(prompts.begin(), prompts.end(),
                   [](const auto* a, const auto* b) { return a->last_turn < b->last_turn; });
  int64_t left = limits_.chunk;
  for (RunningRequest* r : prompts) {
    if (left == 0) break;
    if (!r->running || r->in_step) continue;  // preempted, or had the turn of another
    // Whoever is further with the same block gets the turn.
    RunningRequest& other = ahead_of(*r);
    if (other.in_step) continue;
    const Turn turn{.tokens_left = left, .may_preempt = r == first};
    const bool planned = plan_prompt(plan, other, turn) ||
                         (&other != r && turn.may_preempt && plan_prompt(plan, *r, turn));
    if (planned) left -= plan.slices.back().count;
  }
}

StepPlan Scheduler::next_ahead(const StepPlan& before) {
  StepPlan plan;
  int64_t n_running = 0, blocks = 0;
  for (const Slice& s : before.slices) {
    RunningRequest& r = *s.request;
    if (!s.wants_logits) return {};  // more of its prompt is to come
    if (r.ended) continue;
    ++n_running;
    const auto row = static_cast<int32_t>(&s - before.slices.data());
    const int64_t drawn = size_of(*r.sequence);  // the position of the token that `before` draws
    if (r.cancelled || drawn + 1 >= r.max_tokens) continue;  // ends with `before`
    if (!can_draw_ahead(r.request.sampling)) return {};
    plan.slices.push_back({&r, drawn, 1, /*wants_logits=*/true, row});
    blocks += missing_blocks(*r.sequence, drawn + 1);
  }
  const bool all_decode = n_running == std::ssize(running_);
  const bool has_place = std::ssize(plan.slices) < limits_.max_seqs && !waiting_.empty();
  if (!all_decode || has_place || std::ssize(plan.slices) > limits_.max_ahead ||
      blocks > pool_.n_free())
    return {};
  for (const Slice& s : plan.slices) {
    const bool reserved = s.request->sequence->reserve(s.first + 1);
    DSR_CHECK(reserved, pool_.n_free());
  }
  return plan;
}

StepPlan Scheduler::next() {
  forget_ended({});
  admit_waiting();
  StepPlan plan;
  for (const auto& r : running_) r->in_step = false;
  plan_decodes(plan);
  plan_prompts(plan);
  DSR_CHECK(!plan.slices.empty() || first_live() == nullptr, pool_.n_free());
  DSR_CHECK(waiting_.empty() || !running_.empty(), pool_.n_free());
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

std::vector<StepOutput> Scheduler::commit(const StepPlan& plan, const std::vector<TokenId>& tokens,
                                          const StepPlan& ahead) {
  std::vector<StepOutput> outputs;
  size_t next_token = 0;
  for (const Slice& slice : plan.slices) {
    RunningRequest& r = *slice.request;
    if (r.ended || r.cancelled) {  // since it was planned
      if (slice.wants_logits) ++next_token;
      continue;
    }
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
  end_cancelled(outputs);
  take_out_ended(outputs);
  forget_ended(ahead);
  return outputs;
}

void Scheduler::end_cancelled(std::vector<StepOutput>& outputs) const {
  const auto end = [&](const RunningRequest& r) {
    if (r.cancelled && std::none_of(outputs.begin(), outputs.end(),
                                    [&](const StepOutput& o) { return o.request == r.id; }))
      outputs.push_back({r.id, {}, FinishReason::kCancelled});
  };
  for (const auto& r : running_) end(*r);
  for (const auto& r : waiting_) end(*r);
}

void Scheduler::take_out_ended(const std::vector<StepOutput>& outputs) {
  const auto take_out = [&](auto& requests) {
    for (std::unique_ptr<RunningRequest>& r : requests) {
      r->ended = std::any_of(outputs.begin(), outputs.end(), [&](const StepOutput& o) {
        return o.request == r->id && o.finish != FinishReason::kNone;
      });
      if (r->ended) ended_.push_back(std::move(r));
    }
    std::erase(requests, nullptr);
  };
  take_out(running_);
  take_out(waiting_);
}

void Scheduler::forget_ended(const StepPlan& ahead) {
  std::erase_if(ended_, [&](const std::unique_ptr<RunningRequest>& r) {
    if (std::any_of(ahead.slices.begin(), ahead.slices.end(),
                    [&](const Slice& s) { return s.request == r.get(); }))
      return false;
    r->sequence->drop_unused_blocks();
    return true;
  });
}

}  // namespace dsr
