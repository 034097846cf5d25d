// The scheduler without a model: steps are planned and committed with made-up tokens.
#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"
#include "kv/kv_layout.h"

namespace dsr {
namespace {

constexpr TokenId kEos = 1;

SchedulerLimits limits(int64_t max_seqs, int64_t ctx_size, int64_t chunk) {
  return {.max_seqs = max_seqs, .chunk = chunk, .ctx_size = ctx_size, .eos_ids = {kEos}};
}

Request request(int64_t prompt_tokens, int64_t max_new_tokens, SequenceId sequence = 0) {
  Request r;
  r.prompt.assign(static_cast<size_t>(prompt_tokens), 7);
  r.max_new_tokens = max_new_tokens;
  r.sequence = sequence;
  return r;
}

std::string error_of(Scheduler& scheduler, Request r) {
  try {
    scheduler.submit(std::move(r));
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUsage);
    return e.what();
  }
  return "";
}

// Commits `token` for every slice that wants logits.
std::vector<StepOutput> step(Scheduler& scheduler, TokenId token = 7) {
  const StepPlan plan = scheduler.next();
  std::vector<TokenId> tokens;
  for (const Slice& s : plan.slices)
    if (s.wants_logits) tokens.push_back(token);
  return scheduler.commit(plan, tokens);
}

TEST(SchedulerTest, CutsPromptsAtMultiplesOfTheChunkFromPositionZero) {
  BlockPool pool(8);
  Scheduler scheduler(limits(1, 256, 64), pool);
  const SequenceId kept = scheduler.open_sequence();
  scheduler.submit(request(100, 1, kept));
  std::vector<std::pair<int64_t, int64_t>> slices;
  while (!scheduler.idle()) {
    const StepPlan plan = scheduler.next();
    ASSERT_EQ(plan.slices.size(), 1u);
    slices.emplace_back(plan.slices[0].first, plan.slices[0].count);
    scheduler.commit(
        plan, plan.slices[0].wants_logits ? std::vector<TokenId>{7} : std::vector<TokenId>{});
  }
  EXPECT_EQ(slices, (std::vector<std::pair<int64_t, int64_t>>{{0, 64}, {64, 36}}));

  // A turn that continues at token 100 still ends its first chunk at 128.
  slices.clear();
  scheduler.submit(request(200, 1, kept));
  while (!scheduler.idle()) {
    const StepPlan plan = scheduler.next();
    slices.emplace_back(plan.slices[0].first, plan.slices[0].count);
    scheduler.commit(
        plan, plan.slices[0].wants_logits ? std::vector<TokenId>{7} : std::vector<TokenId>{});
  }
  EXPECT_EQ(slices, (std::vector<std::pair<int64_t, int64_t>>{{100, 28}, {128, 64}, {192, 8}}));
  EXPECT_EQ(scheduler.stats().prompt_tokens_reused, 100);
  EXPECT_EQ(scheduler.stats().prompt_tokens_computed, 200);
}

TEST(SchedulerTest, EndsAtEosAtTheLimitAndOnError) {
  BlockPool pool(8);
  Scheduler scheduler(limits(1, 256, 64), pool);
  scheduler.submit(request(3, 10));
  EXPECT_EQ(step(scheduler)[0].tokens, std::vector<TokenId>{7});
  std::vector<StepOutput> out = step(scheduler, kEos);
  EXPECT_EQ(out[0].finish, FinishReason::kStop);
  EXPECT_TRUE(out[0].tokens.empty());
  EXPECT_TRUE(scheduler.idle());

  scheduler.submit(request(3, 2));
  EXPECT_EQ(step(scheduler)[0].finish, FinishReason::kNone);
  EXPECT_EQ(step(scheduler)[0].finish, FinishReason::kLength);

  Request endless = request(3, 2);
  endless.ignore_eos = true;
  scheduler.submit(endless);
  EXPECT_EQ(step(scheduler, kEos)[0].finish, FinishReason::kNone);
  EXPECT_EQ(step(scheduler, kEos)[0].finish, FinishReason::kLength);

  scheduler.submit(request(3, 2));
  EXPECT_EQ(step(scheduler, -1)[0].finish, FinishReason::kError);
  EXPECT_TRUE(scheduler.idle());
  EXPECT_EQ(pool.n_free(), 8);
}

TEST(SchedulerTest, RefusesWhatCannotRun) {
  BlockPool pool(4);
  Scheduler scheduler(limits(2, 256, 64), pool);
  EXPECT_EQ(error_of(scheduler, request(0, 1)), "prompt is empty");
  EXPECT_EQ(error_of(scheduler, request(1257, 1)), "prompt 1,257 tokens, context 256");
  EXPECT_EQ(error_of(scheduler, request(200, 57)),
            "prompt 200 tokens and 57 new ones, context 256");
  EXPECT_EQ(error_of(scheduler, request(256, -1)), "prompt 256 tokens, context 256");
  EXPECT_EQ(error_of(scheduler, request(3, 0)), "max_new_tokens is 0, expected -1 or at least 1");
  EXPECT_EQ(error_of(scheduler, request(3, -2)), "max_new_tokens is -2, expected -1 or at least 1");
  EXPECT_EQ(error_of(scheduler, request(200, 1, 99)), "sequence 99 is not open");
  const SequenceId kept = scheduler.open_sequence();
  scheduler.submit(request(10, 1, kept));
  EXPECT_EQ(error_of(scheduler, request(10, 1, kept)), "sequence 1 is busy with another request");
}

TEST(SchedulerTest, APromptOneTokenShortOfTheContextGivesOneToken) {
  BlockPool pool(4);
  Scheduler scheduler(limits(1, 256, 256), pool);
  scheduler.submit(request(255, -1));
  const std::vector<StepOutput> out = step(scheduler);
  EXPECT_EQ(out[0].tokens.size(), 1u);
  EXPECT_EQ(out[0].finish, FinishReason::kLength);
}

TEST(SchedulerTest, CancelsWaitingAndRunningRequests) {
  BlockPool pool(4);
  Scheduler scheduler(limits(1, 256, 64), pool);
  const RequestId running = scheduler.submit(request(10, 100));
  const RequestId waiting = scheduler.submit(request(10, 100));
  step(scheduler);
  scheduler.cancel(running);
  scheduler.cancel(waiting);
  scheduler.cancel(12345);
  std::set<RequestId> ended;
  for (int i = 0; i < 4 && !scheduler.idle(); ++i)
    for (const StepOutput& o : step(scheduler)) {
      EXPECT_EQ(o.finish, FinishReason::kCancelled);
      ended.insert(o.request);
    }
  EXPECT_EQ(ended, (std::set<RequestId>{running, waiting}));
  EXPECT_TRUE(scheduler.idle());
  EXPECT_EQ(pool.n_free(), 4);
}

TEST(SchedulerTest, IdleKeptSequencesGiveUpTheirKeysWhenMemoryIsNeeded) {
  BlockPool pool(4);
  Scheduler scheduler(limits(1, 256, 256), pool);
  const SequenceId kept = scheduler.open_sequence();
  scheduler.submit(request(250, 1, kept));
  step(scheduler);
  ASSERT_EQ(pool.n_free(), 0);
  scheduler.submit(request(250, 1));
  EXPECT_EQ(step(scheduler)[0].finish, FinishReason::kLength);
  EXPECT_EQ(pool.n_free(), 4);
}

TEST(SchedulerTest, WaitingSequencesGiveUpTheirKeysToTheOneThatIsFirst) {
  BlockPool pool(4);
  Scheduler scheduler(limits(1, 256, 256), pool);
  const SequenceId a = scheduler.open_sequence(), b = scheduler.open_sequence();
  const auto text = [](Request r, TokenId id) {
    std::fill(r.prompt.begin(), r.prompt.end(), id);
    return r;
  };
  scheduler.submit(text(request(100, 1, a), 7));
  step(scheduler);
  scheduler.submit(text(request(100, 1, b), 8));
  step(scheduler);
  ASSERT_EQ(pool.n_free(), 0);
  scheduler.submit(text(request(250, 1, a), 7));
  scheduler.submit(text(request(250, 1, b), 8));  // holds pages that the first one needs, and waits
  scheduler.close_sequence(b);                    // now only the waiting request knows it
  int ended = 0;
  for (int i = 0; i < 4 && !scheduler.idle(); ++i)
    for (const StepOutput& o : step(scheduler)) ended += o.finish == FinishReason::kLength ? 1 : 0;
  EXPECT_EQ(ended, 2);
}

// A request that runs is never put off for one that came later.
TEST(SchedulerTest, TheLastToComeGivesUpItsPlaceAndIsNotLost) {
  BlockPool pool(4);
  Scheduler scheduler(limits(2, 256, 256), pool);
  Request a = request(100, 100), b = request(100, 100);
  b.prompt.assign(100, 9);
  const RequestId first = scheduler.submit(a), second = scheduler.submit(b);
  std::map<RequestId, int> tokens, ended_at;
  for (int i = 1; !scheduler.idle() && i < 1000; ++i)
    for (const StepOutput& o : step(scheduler)) {
      tokens[o.request] += static_cast<int>(o.tokens.size());
      if (o.finish != FinishReason::kNone) ended_at[o.request] = i;
    }
  EXPECT_EQ(tokens[first], 100);
  EXPECT_EQ(tokens[second], 100);
  EXPECT_EQ(ended_at[first], 100) << "a token in every step";
  EXPECT_EQ(scheduler.stats().preemptions, 1);
  EXPECT_EQ(pool.n_free(), 4);
}

}  // namespace
}  // namespace dsr
