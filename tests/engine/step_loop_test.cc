// Steps that are planned ahead give the answers of steps that are not, bit for bit, on a runner
// with a model.
#include "engine/step_loop.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "engine/sampled_batch.h"
#include "support/expect_error.h"
#include "support/tiny_checkpoint.h"

namespace dsr::test {
namespace {

constexpr int64_t kContext = 192, kSeqs = 4, kChunk = 32;
constexpr TokenId kEos = 3, kNan = 9;  // the second one's embedding is not finite

struct Setting {
  Backend backend;
  const char* checkpoint;
  int64_t n_blocks;  // fewer than the requests would like, where preemption changes no bit
};

void PrintTo(const Setting& s, std::ostream* out) {
  *out << name(s.backend) << " " << s.checkpoint;
}

struct Answered {
  std::vector<TokenId> ids;
  std::vector<TokenLogProbs> log_probs;
  FinishReason finish = FinishReason::kNone;
  bool operator==(const Answered&) const = default;
};

struct Ran {
  std::vector<Answered> answers;
  int64_t n_ahead = 0, preemptions = 0;
};

class StepLoopTest : public testing::TestWithParam<Setting> {
 protected:
  void SetUp() override {
    if (GetParam().backend == Backend::kCuda && cuda_devices().empty())
      GTEST_SKIP() << cuda_absence();
    std::string table = checkpoint_.bytes("model.embed_tokens.weight");
    const ModelConfig& c = checkpoint_.config();
    const auto row = table.size() / static_cast<size_t>(c.vocab_size);
    std::fill_n(table.begin() + static_cast<long>(kNan * row), row, '\xff');
    checkpoint_.set("model.embed_tokens.weight", "BF16", {c.vocab_size, c.hidden_size}, table);
    for (int64_t i = 0; i < 16; ++i) requests_.push_back(request(i));
  }

  // Some end by a token, some draw one that ruins them, some need the host between their tokens.
  Request request(int64_t i) const {
    Request r;
    for (int64_t t = 0; t < 3 + 11 * (i % 7); ++t)
      r.prompt.push_back(
          static_cast<TokenId>(10 + (13 * t + 7 * i) % (checkpoint_.config().vocab_size - 10)));
    r.max_new_tokens = 30 + 9 * (i % 5);
    r.ignore_eos = i % 4 == 0;
    r.sampling.temperature = i % 5 == 0 ? 0 : 1;
    r.sampling.top_p = 0.98;
    r.sampling.seed = static_cast<uint64_t>(100 + i);
    r.sampling.logit_bias = {{kEos, i % 4 == 1 ? 2.5 : 0}, {kNan, i % 4 == 2 ? 3.5 : -100}};
    if (i == 6) r.sampling.repetition_penalty = 1.3;
    if (i == 9) r.sampling.logprobs = 3;
    if (i == 11) r.sampling.dry_multiplier = 0.8;
    return r;
  }
  // So many tokens are enough for whoever reads the answer, as where he finds a stop string.
  static size_t enough(size_t i) { return i % 4 == 3 ? 5 + i : 1000; }

  Ran run(int64_t max_ahead) {
    RunnerOptions o;
    o.backend = GetParam().backend;
    o.cpu.threads = 2;
    o.cache_type = o.backend == Backend::kCuda ? CacheType::kBF16 : CacheType::kF32;
    o.max_positions = kContext;
    o.limits = limits_of(kSeqs, kContext);
    o.limits.n_blocks = GetParam().n_blocks;
    o.limits.max_biases = kSeqs * kMaxBiasesPerRow;
    Runner runner(o, checkpoint_.config(), checkpoint_, /*dry_run=*/false);
    runner.set_allowed(all_allowed(checkpoint_.config().vocab_size));
    BlockPool pool(o.limits.n_blocks);
    Scheduler scheduler({.max_seqs = kSeqs,
                         .chunk = kChunk,
                         .ctx_size = kContext,
                         .eos_ids = {kEos},
                         .max_ahead = max_ahead},
                        pool);
    Ran out;
    const auto start = [&](const StepPlan& plan) {
      for (const Slice& s : plan.slices) out.n_ahead += s.drawn_by >= 0 ? 1 : 0;
      runner.start(build_batch(plan, o.limits.max_blocks));
    };
    StepLoop loop(scheduler, {.start = start, .finish = [&] { return runner.finish(); }});
    answer_all(scheduler, loop, out.answers);
    out.preemptions = scheduler.stats().preemptions;
    EXPECT_EQ(pool.n_free(), pool.n_blocks());
    return out;
  }

  // The next request arrives with every seventh token.
  void answer_all(Scheduler& scheduler, StepLoop& loop, std::vector<Answered>& answers) const {
    std::map<RequestId, size_t> index;
    const auto submit = [&] {
      if (answers.size() == requests_.size()) return;
      index[scheduler.submit(requests_[answers.size()])] = answers.size();
      answers.emplace_back();
    };
    for (int i = 0; i < 3; ++i) submit();
    for (int n_tokens = 0; !scheduler.idle();)
      for (const StepOutput& o : loop.step()) {
        const size_t i = index.at(o.request);
        Answered& a = answers[i];
        EXPECT_EQ(a.finish, FinishReason::kNone) << "something came after the end";
        a.ids.insert(a.ids.end(), o.tokens.begin(), o.tokens.end());
        a.log_probs.insert(a.log_probs.end(), o.log_probs.begin(), o.log_probs.end());
        a.finish = o.finish;
        if (a.ids.size() == enough(i)) scheduler.cancel(o.request);
        if (++n_tokens % 7 == 0) submit();
      }
    while (answers.size() < requests_.size()) {  // they had all ended before
      submit();
      while (!scheduler.idle())
        for (const StepOutput& o : loop.step()) answers.back().finish = o.finish;
    }
  }

  TinyCheckpoint checkpoint_{GetParam().checkpoint};
  std::vector<Request> requests_;
};

TEST_P(StepLoopTest, AnswersAreThoseOfStepsThatWaitForEachOther) {
  const Ran want = run(0), got = run(kSeqs), some = run(kSeqs - 1);
  std::map<FinishReason, int> ends;
  int64_t n_tokens = 0;
  for (size_t i = 0; i < requests_.size(); ++i) {
    const Answered& w = want.answers[i];
    ++ends[w.finish];
    n_tokens += std::ssize(w.ids);
    EXPECT_EQ(got.answers[i], w) << "request " << i << ", " << name(w.finish);
    EXPECT_EQ(some.answers[i], w) << "request " << i << ", " << name(w.finish);
    if (w.finish == FinishReason::kError) {
      EXPECT_EQ(w.ids.back(), kNan) << i;
    }
    EXPECT_EQ(w.log_probs.size(), i == 9 ? w.ids.size() : 0);
  }
  // What this is about did happen.
  for (const FinishReason end :
       {FinishReason::kStop, FinishReason::kLength, FinishReason::kError, FinishReason::kCancelled})
    EXPECT_GE(ends[end], 1) << name(end);
  EXPECT_EQ(want.n_ahead, 0);
  EXPECT_GT(got.n_ahead, n_tokens / 4);
  EXPECT_GT(some.n_ahead, 0);
  EXPECT_LT(some.n_ahead, got.n_ahead);
  if (GetParam().n_blocks < kSeqs * blocks_for(kContext)) {
    EXPECT_GT(got.preemptions, 0);
  }
}

// A step that cannot be started is as if it had not been planned, and what was before it counts.
TEST(StepLoopErrors, AreOfOneStep) {
  BlockPool pool(4);
  Scheduler scheduler({.max_seqs = 1, .chunk = 64, .ctx_size = 128, .eos_ids = {}, .max_ahead = 1},
                      pool);
  int n_started = 0, throws_at = 2;
  const auto start = [&](const StepPlan&) {
    if (++n_started == throws_at) fail(ErrorKind::kDevice, "step ", n_started);
  };
  StepLoop loop(scheduler, {.start = start, .finish = [] { return StepResult{{7}, {}}; }});
  const auto error = [&] { return error_of([&] { loop.step(); }, ErrorKind::kDevice); };
  Request r;
  r.prompt = {1, 2, 3};
  scheduler.submit(r);
  EXPECT_EQ(error(), "step 2");  // the one ahead
  const std::vector<StepOutput> first = loop.step();
  ASSERT_EQ(first.size(), 1u);
  EXPECT_EQ(first[0].tokens, std::vector<TokenId>{7});
  EXPECT_EQ(n_started, 3) << "the one ahead again";
  throws_at = 4;
  EXPECT_EQ(error(), "step 4");
  scheduler.cancel(first[0].request);
  const std::vector<StepOutput> last = loop.step();
  ASSERT_EQ(last.size(), 1u);
  EXPECT_EQ(last[0].finish, FinishReason::kCancelled);
  EXPECT_TRUE(scheduler.idle());
  EXPECT_EQ(pool.n_free(), 4);
  throws_at = 5;
  scheduler.submit(r);
  EXPECT_EQ(error(), "step 5");  // the only one
  EXPECT_EQ(loop.step().at(0).tokens, std::vector<TokenId>{7});
}

std::vector<Setting> settings() {
  std::vector<Setting> out = {{Backend::kReference, "v3-bf16", 5},
                              {Backend::kCpu, "v3-bf16", 5},
                              {Backend::kCpu, "llama-gqa", 12}};
  if (built_with_cuda())
    for (const char* checkpoint : {"v3-bf16", "v2-lite", "llama-gqa", "deepseek-moe"})
      out.push_back({Backend::kCuda, checkpoint, kSeqs * blocks_for(kContext)});
  return out;
}

INSTANTIATE_TEST_SUITE_P(Devices, StepLoopTest, testing::ValuesIn(settings()), [](const auto& i) {
  std::string out = name(i.param.backend) + std::string("_") + i.param.checkpoint;
  std::replace(out.begin(), out.end(), '-', '_');
  return out;
});

}  // namespace
}  // namespace dsr::test
