// The scheduler without a model: steps are planned and committed with made-up tokens.
#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/error.h"
#include "base/rng.h"
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
  for (const SequenceId kept : {a, b}) {
    scheduler.submit(request(100, 1, kept));
    step(scheduler);
  }
  ASSERT_EQ(pool.n_free(), 0);
  scheduler.submit(request(250, 1, a));
  scheduler.submit(request(250, 1, b));  // holds pages that the first one needs, and waits
  scheduler.close_sequence(b);           // now only the waiting request knows it
  int ended = 0;
  for (int i = 0; i < 4 && !scheduler.idle(); ++i)
    for (const StepOutput& o : step(scheduler)) ended += o.finish == FinishReason::kLength ? 1 : 0;
  EXPECT_EQ(ended, 2);
}

// Random arrivals, lengths, kept sequences and cancels in a small pool: every request ends exactly
// once, with as many tokens as it asked for, and no page is lost or has two owners.
TEST(SchedulerTest, PropertyEveryRequestEndsAndNoPageLeaks) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    PhiloxStream random(seed, 0);
    const auto up_to = [&](uint32_t n) { return static_cast<int64_t>(random.next_u32() % n) + 1; };
    const int64_t ctx = 64 * up_to(6), max_seqs = up_to(4);
    BlockPool pool(max_seqs * blocks_for(ctx));
    Scheduler scheduler(limits(max_seqs, ctx, up_to(100)), pool);
    const std::vector<SequenceId> kept = {scheduler.open_sequence(), scheduler.open_sequence(),
                                          scheduler.open_sequence()};
    std::map<SequenceId, RequestId> busy;
    std::map<RequestId, int64_t> wanted, got;
    std::set<RequestId> cancelled, ended;
    for (int round = 0; round < 400 || !scheduler.idle(); ++round) {
      ASSERT_LT(round, 20000);
      if (round < 400 && up_to(4) == 1) {
        Request r = request(up_to(static_cast<uint32_t>(ctx - 1)), 1);
        for (TokenId& id : r.prompt) id = static_cast<TokenId>(up_to(3)) + 6;
        const auto room = ctx - static_cast<int64_t>(r.prompt.size());
        r.max_new_tokens = up_to(static_cast<uint32_t>(room));
        if (up_to(2) == 1) r.sequence = kept[static_cast<size_t>(up_to(3)) - 1];
        const int64_t n = r.max_new_tokens;
        if (r.sequence == 0 || !busy.contains(r.sequence)) {
          const SequenceId sequence = r.sequence;
          const RequestId id = scheduler.submit(std::move(r));
          wanted[id] = n;
          if (sequence != 0) busy[sequence] = id;
        }
      }
      if (!wanted.empty() && up_to(40) == 1) {
        const auto it = std::next(wanted.begin(), up_to(static_cast<uint32_t>(wanted.size())) - 1);
        if (!ended.contains(it->first)) {
          scheduler.cancel(it->first);
          cancelled.insert(it->first);
        }
      }
      if (scheduler.idle()) continue;
      const StepPlan plan = scheduler.next();
      std::set<int32_t> owned;
      std::vector<TokenId> tokens;
      for (const Slice& s : plan.slices) {
        ASSERT_GT(s.count, 0);
        for (const int32_t b : s.request->sequence->blocks())
          ASSERT_TRUE(owned.insert(b).second) << "block " << b << " has two owners";
        if (s.wants_logits) tokens.push_back(7);
      }
      for (const StepOutput& o : scheduler.commit(plan, tokens)) {
        got[o.request] += static_cast<int64_t>(o.tokens.size());
        const bool first_end = o.finish == FinishReason::kNone || ended.insert(o.request).second;
        ASSERT_TRUE(first_end) << "request " << o.request << " ended twice";
        if (o.finish != FinishReason::kNone)
          std::erase_if(busy, [&](const auto& entry) { return entry.second == o.request; });
      }
    }
    for (const auto& [id, n] : wanted) {
      EXPECT_TRUE(ended.contains(id)) << "request " << id << " was lost";
      if (!cancelled.contains(id)) {
        EXPECT_EQ(got[id], n);
      }
    }
    for (const SequenceId id : kept) scheduler.close_sequence(id);
    EXPECT_EQ(pool.n_free(), pool.n_blocks());
  }
}

}  // namespace
}  // namespace dsr
