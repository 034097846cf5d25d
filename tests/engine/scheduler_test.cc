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

// Steps that are planned behind one that is not committed.
class PlannedAhead : public testing::Test {
 protected:
  static SchedulerLimits ahead_limits(int64_t max_seqs) {
    SchedulerLimits out = limits(max_seqs, 256, 64);
    out.max_ahead = 3;
    return out;
  }
  // Requests with different prompts of `n` tokens, run until they decode.
  void decode(int requests, int64_t n, int64_t max_new_tokens) {
    for (int i = 0; i < requests; ++i) {
      Request r = request(n, max_new_tokens);
      r.prompt[0] = 10 + i;
      ids_.push_back(scheduler_.submit(r));
    }
    StepPlan plan;
    do {
      plan = scheduler_.next();
      scheduler_.commit(plan, tokens_of(plan));
    } while (std::any_of(plan.slices.begin(), plan.slices.end(),
                         [](const Slice& s) { return s.count > 1; }));
  }
  static std::vector<TokenId> tokens_of(const StepPlan& plan, TokenId token = 7) {
    std::vector<TokenId> out;
    for (const Slice& s : plan.slices)
      if (s.wants_logits) out.push_back(token);
    return out;
  }
  static std::vector<std::pair<RequestId, int32_t>> rows(const StepPlan& plan) {
    std::vector<std::pair<RequestId, int32_t>> out;
    for (const Slice& s : plan.slices) out.emplace_back(s.request->id, s.drawn_by);
    return out;
  }

  BlockPool pool_{8};
  Scheduler scheduler_{ahead_limits(3), pool_};
  std::vector<RequestId> ids_;
};

TEST_F(PlannedAhead, ARowKnowsWhichRowDrawsItsToken) {
  decode(3, 5, 20);
  const StepPlan first = scheduler_.next();
  const StepPlan second = scheduler_.next_ahead(first);
  EXPECT_EQ(rows(second),
            (std::vector<std::pair<RequestId, int32_t>>{{ids_[0], 0}, {ids_[1], 1}, {ids_[2], 2}}));
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(second.slices[i].first, first.slices[i].first + 1);
  // The second one ends with the first step, and is in the second for nothing.
  const auto ends = scheduler_.commit(first, {7, kEos, 7}, second);
  EXPECT_EQ(ends[1].finish, FinishReason::kStop);
  const StepPlan third = scheduler_.next_ahead(second);
  EXPECT_EQ(rows(third), (std::vector<std::pair<RequestId, int32_t>>{{ids_[0], 0}, {ids_[2], 2}}));
  const auto outputs = scheduler_.commit(second, {8, 8, 8}, third);
  ASSERT_EQ(outputs.size(), 2u);
  EXPECT_EQ(outputs[1].request, ids_[2]);
  EXPECT_EQ(outputs[1].tokens, std::vector<TokenId>{8});
}

TEST_F(PlannedAhead, WhoEndsAtItsLengthIsNotInIt) {
  decode(1, 5, 20);
  const RequestId short_one = scheduler_.submit(request(3, 2));
  const StepPlan prompt = scheduler_.next();  // its token is the first of two
  StepPlan second = scheduler_.next_ahead(prompt);
  EXPECT_EQ(rows(second),
            (std::vector<std::pair<RequestId, int32_t>>{{ids_[0], 0}, {short_one, 1}}));
  scheduler_.commit(prompt, {7, 7}, second);
  const StepPlan third = scheduler_.next_ahead(second);
  EXPECT_EQ(rows(third), (std::vector<std::pair<RequestId, int32_t>>{{ids_[0], 0}}));
  EXPECT_EQ(scheduler_.commit(second, {7, 7}, third)[1].finish, FinishReason::kLength);
}

TEST_F(PlannedAhead, NotWhereMoreThanTokensMustBeKnown) {
  decode(2, 5, 20);
  const auto is_ahead = [&] {
    const StepPlan plan = scheduler_.next();
    const bool out = !scheduler_.next_ahead(plan).slices.empty();
    scheduler_.commit(plan, tokens_of(plan));
    return out;
  };
  EXPECT_TRUE(is_ahead());
  scheduler_.submit(request(100, 2));
  EXPECT_FALSE(is_ahead()) << "more of a prompt is to come";
  EXPECT_TRUE(is_ahead());
  scheduler_.submit(request(5, 1));
  EXPECT_FALSE(is_ahead()) << "one ends by its length, and another waits for its place";
  EXPECT_TRUE(is_ahead()) << "of the two that go on";

  Request penalised = request(5, 3);
  penalised.sampling.frequency_penalty = 1;
  scheduler_.submit(penalised);
  EXPECT_FALSE(is_ahead());
  EXPECT_FALSE(is_ahead());
  EXPECT_TRUE(is_ahead()) << "its last token is drawn";
  scheduler_.submit(request(5, 9));
  scheduler_.submit(request(5, 9));
  EXPECT_TRUE(is_ahead()) << "who waits has no place to hope for";
  scheduler_.cancel(ids_[0]);
  EXPECT_FALSE(is_ahead()) << "now there is one";
}

TEST_F(PlannedAhead, NotWhereAPromptHasNoTurn) {
  decode(1, 5, 20);
  for (const TokenId first : {20, 21}) {
    Request r = request(60, 5);
    r.prompt[0] = first;
    scheduler_.submit(r);
  }
  const StepPlan plan = scheduler_.next();  // 64 tokens of prompts are one of the two
  ASSERT_EQ(plan.slices.size(), 2u);
  EXPECT_TRUE(scheduler_.next_ahead(plan).slices.empty());
  scheduler_.commit(plan, {7, 7});
  const StepPlan next = scheduler_.next();
  EXPECT_EQ(next.slices.size(), 3u);
  EXPECT_EQ(scheduler_.next_ahead(next).slices.size(), 3u);
}

TEST_F(PlannedAhead, NotOfMoreRowsThanAllowed) {
  BlockPool pool(8);
  Scheduler scheduler(ahead_limits(4), pool);
  for (int i = 0; i < 4; ++i) scheduler.submit(request(4 + i, 20));
  StepPlan plan = scheduler.next();
  EXPECT_EQ(plan.slices.size(), 4u);
  EXPECT_TRUE(scheduler.next_ahead(plan).slices.empty());
  scheduler.commit(plan, {7, 7, 7, kEos});
  plan = scheduler.next();
  EXPECT_EQ(scheduler.next_ahead(plan).slices.size(), 3u);
}

// Position 64 is the first of a block: the step ahead takes it, and holds it to its own end.
TEST_F(PlannedAhead, ItsBlocksAreHeldUntilItIsCommitted) {
  const SequenceId kept = scheduler_.open_sequence();
  scheduler_.submit(request(63, 20, kept));
  const StepPlan first = scheduler_.next();
  EXPECT_EQ(pool_.n_free(), 7);
  StepPlan second = scheduler_.next_ahead(first);
  ASSERT_EQ(second.slices.size(), 1u);
  scheduler_.commit(first, {7}, second);
  const StepPlan third = scheduler_.next_ahead(second);
  ASSERT_EQ(third.slices.size(), 1u);
  EXPECT_EQ(third.slices[0].first, 64);
  EXPECT_EQ(pool_.n_free(), 6);
  EXPECT_EQ(scheduler_.commit(second, {kEos}, third)[0].finish, FinishReason::kStop);
  EXPECT_TRUE(scheduler_.idle());
  EXPECT_EQ(pool_.n_free(), 6);
  EXPECT_TRUE(scheduler_.commit(third, {5}).empty());
  EXPECT_EQ(pool_.n_free(), 7) << "the sequence keeps what its 64 tokens fill";

  scheduler_.submit(request(65, 1, kept));
  scheduler_.commit(scheduler_.next(), {7});
  EXPECT_EQ(scheduler_.stats().prompt_tokens_reused, 64) << "no key of a dropped token counts";
}

TEST_F(PlannedAhead, WhoIsCancelledMeanwhileGetsNoToken) {
  decode(2, 5, 20);
  const StepPlan first = scheduler_.next(), second = scheduler_.next_ahead(first);
  scheduler_.commit(first, {7, 7}, second);
  scheduler_.cancel(ids_[0]);
  const auto outputs = scheduler_.commit(second, {8, 9});
  ASSERT_EQ(outputs.size(), 2u);
  EXPECT_EQ(outputs[0].request, ids_[1]);
  EXPECT_EQ(outputs[0].tokens, std::vector<TokenId>{9});
  EXPECT_EQ(outputs[1].request, ids_[0]);
  EXPECT_TRUE(outputs[1].tokens.empty());
  EXPECT_EQ(outputs[1].finish, FinishReason::kCancelled);
}

TEST_F(PlannedAhead, NobodyLosesItsPlaceForIt) {
  BlockPool pool(3);
  Scheduler scheduler(ahead_limits(2), pool);
  for (const TokenId first : {4, 5}) {
    Request r = request(64, 20);
    r.prompt[0] = first;
    scheduler.submit(r);
  }
  scheduler.commit(scheduler.next(), {7});
  const StepPlan plan = scheduler.next();  // position 64 of the first, the prompt of the second
  ASSERT_EQ(plan.slices.size(), 2u);
  EXPECT_EQ(pool.n_free(), 0);
  EXPECT_TRUE(scheduler.next_ahead(plan).slices.empty()) << "the second has no block for 64";
  scheduler.commit(plan, {7, 7});
  EXPECT_EQ(scheduler.next().slices.size(), 1u) << "the second waits, and keeps what it has";
  EXPECT_EQ(scheduler.stats().preemptions, 0);
}

}  // namespace
}  // namespace dsr
