// The scheduler, the pool and the loop of steps under random traffic, with a runner that has no
// model: a token's key is a hash of all tokens up to it, and the next token is a function of that.
// Keys in a wrong place, of another sequence or overwritten give other tokens than the request
// would get alone.
#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <optional>
#include <set>
#include <stdexcept>

#include "base/rng.h"
#include "engine/step_loop.h"
#include "kv/kv_layout.h"

namespace dsr {
namespace {

constexpr TokenId kEos = 1;

// The keys of a prefix with one token more.
uint64_t longer(uint64_t prefix, TokenId id) {
  return philox4x32(prefix, {static_cast<uint32_t>(id), 0, 0, 0})[0] + (prefix << 32) + 1;
}

// -1: a logit is not finite.
TokenId next_token(uint64_t prefix) {
  if (prefix % 127 == 0) return -1;
  return prefix % 61 == 0 ? kEos : static_cast<TokenId>(2 + prefix % 3);
}

struct Ended {
  std::vector<TokenId> ids;
  FinishReason finish = FinishReason::kNone;
  bool operator==(const Ended&) const = default;
};

// The answer of a request that is alone in the world.
Ended answer_alone(const Request& r, int64_t ctx_size) {
  uint64_t prefix = 0;
  for (const TokenId id : r.prompt) prefix = longer(prefix, id);
  std::vector<TokenId> out;
  const int64_t most = r.max_new_tokens < 0 ? ctx_size - std::ssize(r.prompt) : r.max_new_tokens;
  while (std::ssize(out) < most) {
    const TokenId id = next_token(prefix);
    if (id < 0) return {out, FinishReason::kError};
    if (id == kEos && !r.ignore_eos) return {out, FinishReason::kStop};
    out.push_back(id);
    prefix = longer(prefix, id);
  }
  return {out, FinishReason::kLength};
}

// Does what a GPU may do: a step sees the blocks and tokens of when it was started, and runs some
// time before finish() returns, behind those that were started earlier.
class FakeRunner {
 public:
  explicit FakeRunner(const BlockPool& pool)
      : pool_(pool), keys_(static_cast<size_t>(pool.n_blocks() * kPageTokens), 0) {}

  // `now`: runs at once.
  void start(const StepPlan& plan, bool now) {
    Step& step = steps_.emplace_back();
    for (const Slice& s : plan.slices) {
      const Sequence& sequence = *s.request->sequence;
      const auto known = sequence.tokens().begin() + (s.drawn_by < 0 ? s.first + s.count : s.first);
      step.rows.push_back({s, {sequence.tokens().begin(), known}, sequence.blocks()});
      if (s.drawn_by < 0) continue;
      ++n_ahead_;
      EXPECT_TRUE(can_draw_ahead(s.request->request.sampling));
    }
    EXPECT_LE(steps_.size(), 2u);
    if (now) run_all();
  }
  std::vector<TokenId> finish() {
    run_all();
    for (const Row& row : steps_.front().rows)
      n_dropped_ += row.slice.request->ended || row.slice.request->cancelled ? 1 : 0;
    std::vector<TokenId> out = *std::move(steps_.front().drawn);
    steps_.pop_front();
    return out;
  }
  std::vector<TokenId> run(const StepPlan& plan) {
    start(plan, true);
    return finish();
  }
  bool busy() const { return !steps_.empty(); }
  // Rows that were started before their token was known, and those of them that were for nothing.
  int64_t n_ahead() const { return n_ahead_; }
  int64_t n_dropped() const { return n_dropped_; }

 private:
  struct Row {
    Slice slice;
    std::vector<TokenId> tokens;
    std::vector<int32_t> blocks;
  };
  struct Step {
    std::vector<Row> rows;
    std::optional<std::vector<TokenId>> drawn;  // once it has run
  };

  void run_all() {
    for (Step& step : steps_)
      if (!step.drawn) drawn_before_ = *(step.drawn = run(step.rows));
  }

  // The step's tokens. What a slice reads must be there before the step, and what it writes must be
  // in blocks that no other sequence holds, nor nobody.
  std::vector<TokenId> run(std::vector<Row>& rows) {
    std::map<size_t, uint64_t> written;
    std::vector<TokenId> out;
    for (auto& [s, tokens, blocks] : rows) {
      if (s.drawn_by >= 0) tokens.push_back(drawn_before_.at(static_cast<size_t>(s.drawn_by)));
      uint64_t prefix = 0;
      for (int64_t i = 0; i < s.first + s.count; ++i) {
        prefix = longer(prefix, tokens.at(static_cast<size_t>(i)));
        const int32_t block = blocks.at(static_cast<size_t>(i / kPageTokens));
        const auto slot = static_cast<size_t>(block * kPageTokens + i % kPageTokens);
        if (i < s.first) {
          EXPECT_EQ(keys_[slot], prefix) << "wrong key in block " << block;
          continue;
        }
        EXPECT_EQ(pool_.n_references(block), 1) << "a shared or free block is written: " << block;
        EXPECT_TRUE(written.emplace(slot, prefix).second) << "written twice: " << block;
      }
      if (s.wants_logits) out.push_back(next_token(prefix));
    }
    for (const auto& [slot, key] : written) keys_[slot] = key;
    return out;
  }

  const BlockPool& pool_;
  std::vector<uint64_t> keys_;
  std::deque<Step> steps_;  // started and not finished
  std::vector<TokenId> drawn_before_;
  int64_t n_ahead_ = 0, n_dropped_ = 0;
};

struct Traffic {
  uint64_t seed;
  int64_t max_ahead = 0;
  BlockPool::Hash hash = prefix_hash;
};

class World {
 public:
  explicit World(const Traffic& t)
      : random_(t.seed, 0),
        schedule_(t.seed, 1),
        ctx_size_(64 * up_to(6) + up_to(63)),
        chunk_(up_to(150)),
        pool_(blocks_for(ctx_size_) + up_to(8) - 1, t.hash),
        scheduler_({.max_seqs = up_to(6),
                    .chunk = chunk_,
                    .ctx_size = ctx_size_,
                    .eos_ids = {kEos},
                    .max_ahead = t.max_ahead},
                   pool_),
        runner_(pool_),
        loop_(scheduler_, {.start = [this](const StepPlan& plan) { start(plan); },
                           .finish =
                               [this] {
                                 return StepResult{runner_.finish(), {}};
                               }}) {
    for (int i = 0; i < 3; ++i) kept_.push_back(scheduler_.open_sequence());
  }

  void run() {
    constexpr int kRounds = 300;
    for (int round = 0; round < kRounds || !scheduler_.idle(); ++round) {
      ASSERT_LT(round, 50000) << "requests are stuck";
      if (round < kRounds && up_to(3) == 1) submit();
      if (up_to(30) == 1) cancel();
      take(loop_.step());
      if (scheduler_.idle()) {
        EXPECT_FALSE(runner_.busy());
      }
      if (testing::Test::HasFailure()) return;
    }
    check_answers();
    for (const SequenceId id : kept_) scheduler_.close_sequence(id);
    EXPECT_EQ(pool_.n_free(), pool_.n_blocks()) << "blocks leak";
    for (int64_t b = 0; b < pool_.n_blocks(); ++b)
      EXPECT_EQ(pool_.n_references(static_cast<int32_t>(b)), 0);
  }
  const EngineStats& stats() const { return scheduler_.stats(); }
  const FakeRunner& runner() const { return runner_; }

 private:
  void start(const StepPlan& plan) {
    check_limits(plan);
    runner_.start(plan, schedule_.next_u32() % 2 == 0);
  }

  int64_t up_to(int64_t n) {
    return static_cast<int64_t>(random_.next_u32() % static_cast<uint32_t>(n)) + 1;
  }

  // Prompts begin with one of three texts, and may leave it at any place.
  void submit() {
    Request r;
    const int64_t n = up_to(ctx_size_ - 1);
    const TokenId text = static_cast<TokenId>(2 + up_to(3));
    r.prompt.assign(static_cast<size_t>(n), text);
    if (up_to(2) == 1)
      for (int64_t i = up_to(n); i < n; ++i)
        r.prompt[static_cast<size_t>(i)] = static_cast<TokenId>(up_to(3) + 1);
    r.max_new_tokens = up_to(8) == 1 ? -1 : up_to(ctx_size_ - n);
    r.ignore_eos = up_to(4) == 1;
    if (up_to(20) == 1) r.sampling.presence_penalty = 1;
    if (up_to(4) == 1) r.sequence = kept_[static_cast<size_t>(up_to(3)) - 1];
    if (r.sequence != 0 && busy_.contains(r.sequence)) return;
    const Request copy = r;
    const RequestId id = scheduler_.submit(std::move(r));
    if (copy.sequence != 0) busy_[copy.sequence] = id;
    requests_[id] = copy;
  }

  void cancel() {
    if (requests_.empty()) return;
    const RequestId id = std::next(requests_.begin(), up_to(std::ssize(requests_)) - 1)->first;
    scheduler_.cancel(id);
    if (!ended_.contains(id)) cancelled_.insert(id);
  }

  void check_limits(const StepPlan& plan) const {
    int64_t prompt_tokens = 0;
    for (const Slice& s : plan.slices) {
      ASSERT_GT(s.count, 0);
      if (s.count > 1) prompt_tokens += s.count;
      if (s.count > 1) {
        ASSERT_EQ(s.first / chunk_, (s.first + s.count - 1) / chunk_) << "cut off its grid";
      }
    }
    ASSERT_LE(prompt_tokens, chunk_);
  }

  void take(const std::vector<StepOutput>& outputs) {
    for (const StepOutput& o : outputs) {
      auto& got = answers_[o.request];
      got.insert(got.end(), o.tokens.begin(), o.tokens.end());
      if (o.finish == FinishReason::kNone) continue;
      EXPECT_TRUE(ended_.emplace(o.request, o.finish).second) << o.request << " ended twice";
      EXPECT_TRUE(o.finish != FinishReason::kCancelled || o.tokens.empty());
      std::erase_if(busy_, [&](const auto& entry) { return entry.second == o.request; });
    }
  }

  void check_answers() {
    for (const auto& [id, request] : requests_) {
      ASSERT_TRUE(ended_.contains(id)) << "request " << id << " was lost";
      const Ended want = answer_alone(request, ctx_size_);
      const Ended got = {answers_[id], ended_[id]};
      if (got.finish == FinishReason::kCancelled) {
        EXPECT_TRUE(cancelled_.contains(id));
        ASSERT_LE(got.ids.size(), want.ids.size());
        EXPECT_TRUE(std::equal(got.ids.begin(), got.ids.end(), want.ids.begin())) << id;
        continue;
      }
      EXPECT_EQ(got.ids, want.ids) << "request " << id;
      EXPECT_EQ(got.finish, want.finish) << "request " << id;
    }
  }

  PhiloxStream random_, schedule_;
  int64_t ctx_size_, chunk_;
  BlockPool pool_;
  Scheduler scheduler_;
  FakeRunner runner_;
  StepLoop loop_;
  std::vector<SequenceId> kept_;
  std::map<SequenceId, RequestId> busy_;
  std::map<RequestId, Request> requests_;
  std::map<RequestId, std::vector<TokenId>> answers_;
  std::map<RequestId, FinishReason> ended_;
  std::set<RequestId> cancelled_;
};

struct Happened {
  int64_t preemptions = 0, reused = 0, ahead = 0, dropped = 0;
};
// The same traffic for one seed, however far ahead steps are planned.
Happened run_worlds(uint64_t seeds, int64_t max_ahead) {
  Happened out;
  for (uint64_t seed = 0; seed < seeds && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    World world({seed, max_ahead});
    world.run();
    out.preemptions += world.stats().preemptions;
    out.reused += world.stats().prompt_tokens_reused;
    out.ahead += world.runner().n_ahead();
    out.dropped += world.runner().n_dropped();
  }
  return out;
}

TEST(SchedulerPropertyTest, EveryRequestGetsTheAnswerItWouldGetAlone) {
  const Happened h = run_worlds(120, 0);
  // What this is about did happen.
  EXPECT_GT(h.preemptions, 200);
  EXPECT_GT(h.reused, 100'000);
  EXPECT_EQ(h.ahead, 0);
}

TEST(SchedulerPropertyTest, AndWithStepsThatArePlannedAhead) {
  for (const int64_t max_ahead : {2, 64}) {
    const Happened h = run_worlds(120, max_ahead);
    EXPECT_GT(h.preemptions, 200);
    EXPECT_GT(h.reused, 100'000);
    EXPECT_GT(h.ahead, 10'000);
    EXPECT_GT(h.dropped, 500);
  }
}

// All prefixes with the same hash: only comparing the ids tells them apart.
TEST(SchedulerPropertyTest, CollisionsOfTheHashChangeNothing) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    World world(
        {seed, /*max_ahead=*/0, [](PrefixId, std::span<const int32_t>) -> uint64_t { return 42; }});
    world.run();
    if (HasFailure()) return;
  }
}

class TrafficTest : public testing::Test {
 protected:
  static Request request(int64_t n, TokenId text, int64_t max_new_tokens) {
    Request r;
    r.prompt.assign(static_cast<size_t>(n), text);
    r.max_new_tokens = max_new_tokens;
    r.ignore_eos = true;
    return r;
  }
  // Runs to the end; the step in which each request got its first token, and its last.
  struct Times {
    int64_t first = 0, last = 0;
  };
  static std::map<RequestId, Times> run(Scheduler& scheduler, FakeRunner& runner,
                                        const std::function<void(int64_t)>& before_step = {}) {
    std::map<RequestId, Times> out;
    for (int64_t step = 1; !scheduler.idle(); ++step) {
      if (step > 10'000) throw std::runtime_error("requests are stuck");
      if (before_step) before_step(step);
      const StepPlan plan = scheduler.next();
      for (const StepOutput& o : scheduler.commit(plan, runner.run(plan))) {
        Times& t = out[o.request];
        if (t.first == 0) t.first = step;
        if (o.finish != FinishReason::kNone) t.last = step;
      }
    }
    return out;
  }
};

TEST_F(TrafficTest, AShortPromptDoesNotWaitForTheEndOfALongOne) {
  BlockPool pool(200);
  FakeRunner runner(pool);
  Scheduler scheduler({.max_seqs = 8, .chunk = 64, .ctx_size = 6400, .eos_ids = {}}, pool);
  const RequestId long_one = scheduler.submit(request(6000, 3, 2));
  RequestId short_one = 0;
  const auto times = run(scheduler, runner, [&](int64_t step) {
    if (step == 5) short_one = scheduler.submit(request(20, 4, 50));
  });
  EXPECT_LE(times.at(short_one).first, 6);
  EXPECT_EQ(times.at(short_one).last, times.at(short_one).first + 49) << "decodes in every step";
  EXPECT_LE(times.at(long_one).first, (6000 + 63) / 64 + 2);
}

TEST_F(TrafficTest, ALongPromptIsNotStarvedByAStreamOfShortOnes) {
  BlockPool pool(200);
  FakeRunner runner(pool);
  Scheduler scheduler({.max_seqs = 8, .chunk = 64, .ctx_size = 6400, .eos_ids = {}}, pool);
  const RequestId long_one = scheduler.submit(request(1280, 3, 1));
  const auto times = run(scheduler, runner, [&](int64_t step) {
    if (step < 300) scheduler.submit(request(60, static_cast<TokenId>(10 + step), 1));
  });
  EXPECT_LE(times.at(long_one).last, 20 * 8) << "20 turns of its own, one in eight at the least";
}

TEST_F(TrafficTest, SamplesOfOnePromptShareItsBlocks) {
  BlockPool pool(64);
  FakeRunner runner(pool);
  Scheduler scheduler({.max_seqs = 8, .chunk = 512, .ctx_size = 512, .eos_ids = {}}, pool);
  for (int i = 0; i < 8; ++i) scheduler.submit(request(200, 3, 20));
  int64_t least_free = 64;
  run(scheduler, runner, [&](int64_t) { least_free = std::min(least_free, pool.n_free()); });
  EXPECT_EQ(scheduler.stats().prompt_tokens_computed, 200 + 7 * 8);
  EXPECT_EQ(scheduler.stats().prompt_tokens_reused, 7 * 192);
  EXPECT_EQ(64 - least_free, 3 + 8) << "three blocks of the prompt, and one of its own for each";
}

TEST_F(TrafficTest, AnEndedRequestsBlocksAreFoundUntilTheirPlaceIsNeeded) {
  BlockPool pool(8);
  FakeRunner runner(pool);
  Scheduler scheduler({.max_seqs = 1, .chunk = 512, .ctx_size = 512, .eos_ids = {}}, pool);
  scheduler.submit(request(257, 3, 1));
  run(scheduler, runner);
  EXPECT_EQ(pool.n_free(), 8);
  scheduler.submit(request(257, 3, 1));
  run(scheduler, runner);
  EXPECT_EQ(scheduler.stats().prompt_tokens_reused, 256);
  scheduler.submit(request(450, 4, 1));  // all eight blocks
  run(scheduler, runner);
  scheduler.submit(request(257, 3, 1));
  run(scheduler, runner);
  EXPECT_EQ(scheduler.stats().prompt_tokens_reused, 256);
}

}  // namespace
}  // namespace dsr
