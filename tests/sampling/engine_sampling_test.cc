// Sampling as the engine does it: on a tiny checkpoint, through the public interface.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "deepseek_run/answer.h"
#include "engine/scheduler.h"
#include "support/expect_error.h"
#include "support/json_edit.h"
#include "support/temp_dir.h"
#include "support/tiny_checkpoint.h"
#include "text/text_fixture.h"

namespace dsr {
namespace {

struct Generated {
  std::vector<TokenId> ids;
  std::vector<TokenLogProbs> log_probs;
  FinishReason finish = FinishReason::kNone;
};

class EngineSamplingTest : public testing::Test {
 protected:
  EngineSamplingTest() { checkpoint_.write(directory_.path()); }

  std::unique_ptr<Engine> engine(int64_t max_seqs, const Tokenizer* tokenizer = nullptr) {
    return Engine::create({.model_dir = directory_.path(),
                           .max_seqs = max_seqs,
                           .chunk = 16,
                           .tokenizer = tokenizer,
                           .warn = {}});
  }

  static Request request(int64_t n) {
    Request r;
    r.prompt = {3, 14, 15, 92, 65, 35, 89, 79};
    r.max_new_tokens = n;
    r.ignore_eos = true;
    r.sampling.temperature = 0;
    return r;
  }
  // Everything at once, so that each stage has something to do.
  static Request with_everything(int64_t n) {
    Request r = request(n);
    r.sampling = {.temperature = 0.9,
                  .top_k = 60,
                  .top_p = 0.97,
                  .min_p = 0.001,
                  .repetition_penalty = 1.2,
                  .presence_penalty = 0.3,
                  .frequency_penalty = 0.1,
                  .penalty_window = 16,
                  .dry_multiplier = 0.8,
                  .dry_allowed_length = 1,
                  .logit_bias = {{5, 1.5}, {6, -3}},
                  .seed = 99};
    return r;
  }

  static std::map<RequestId, Generated> run(Engine& engine) {
    std::map<RequestId, Generated> out;
    while (!engine.idle())
      for (const StepOutput& o : engine.step()) {
        Generated& g = out[o.request];
        g.ids.insert(g.ids.end(), o.tokens.begin(), o.tokens.end());
        g.log_probs.insert(g.log_probs.end(), o.log_probs.begin(), o.log_probs.end());
        g.finish = o.finish;
      }
    return out;
  }
  static Generated run_one(Engine& engine, const Request& request) {
    const RequestId id = engine.submit(request);
    return run(engine).at(id);
  }
  static std::vector<float> last_logits(Engine& engine, const std::vector<TokenId>& ids) {
    std::vector<float> out;
    engine.logits(ids,
                  [&](int64_t, std::span<const float> row) { out.assign(row.begin(), row.end()); });
    return out;
  }

  test::TempDir directory_;
  test::TinyCheckpoint checkpoint_{"v3-bf16"};
};

// Greedy with DRY: the largest of the model's logits less the penalties, by their definition.
TEST_F(EngineSamplingTest, DryIsSubtractedFromTheLogits) {
  const std::unique_ptr<Engine> e = engine(1);
  Request r = request(40);
  r.sampling.logit_bias = {{10, 30}, {11, 29}, {12, 28}};  // few words, so that they repeat
  r.sampling.dry_multiplier = 3;
  r.sampling.dry_base = 1.5;
  r.sampling.dry_allowed_length = 2;
  const Generated got = run_one(*e, r);
  ASSERT_EQ(got.ids.size(), 40u);

  std::vector<TokenId> text = r.prompt;
  int penalised = 0;
  for (const TokenId id : got.ids) {
    std::vector<float> logits = last_logits(*e, text);
    const TokenId greedy =
        static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    std::map<TokenId, double> bias = {{10, 30}, {11, 29}, {12, 28}};
    for (TokenId next = 10; next <= 12; ++next) {
      size_t longest = 0;
      for (size_t i = 1; i < text.size(); ++i) {
        if (text[i] != next) continue;
        size_t n = 0;
        while (n < i && text[i - 1 - n] == text[text.size() - 1 - n]) ++n;
        longest = std::max(longest, n);
      }
      if (longest < 2) continue;
      bias[next] -= 3 * std::pow(1.5, static_cast<double>(longest) - 2);
      ++penalised;
    }
    for (const auto& [next, b] : bias) logits[static_cast<size_t>(next)] += static_cast<float>(b);
    ASSERT_EQ(id, std::max_element(logits.begin(), logits.end()) - logits.begin()) << greedy;
    text.push_back(id);
  }
  EXPECT_GT(penalised, 20);
}

TEST_F(EngineSamplingTest, TheLoopGuardEndsWhatRepeatsItself) {
  test::TinySpec spec = test::TinySpec::load("v3-bf16");
  spec.config = test::with_member(spec.config, "max_position_embeddings", Json(1200));
  test::TinyCheckpoint(spec).write(directory_.path());
  const std::unique_ptr<Engine> e = engine(1);
  Request r = request(-1);
  r.sampling.logit_bias = {{7, 100}};
  const Generated ended = run_one(*e, r);
  EXPECT_EQ(ended.finish, FinishReason::kRepetition);
  EXPECT_EQ(ended.ids, std::vector<TokenId>(1024, 7));

  r.sampling.loop_guard = false;
  const Generated whole = run_one(*e, r);
  EXPECT_EQ(whole.finish, FinishReason::kLength);
  EXPECT_EQ(std::ssize(whole.ids), e->info().ctx_size - std::ssize(r.prompt));
}

// Of a scheduler whose model says 7 and nothing else.
FinishReason end_of_sevens(int64_t prompt_tokens, int64_t max_new_tokens) {
  BlockPool pool(64);
  Scheduler scheduler({.max_seqs = 1, .chunk = 4096, .ctx_size = 4096, .eos_ids = {1}}, pool);
  Request r;
  r.prompt.assign(static_cast<size_t>(prompt_tokens), 7);
  r.max_new_tokens = max_new_tokens;
  scheduler.submit(r);
  FinishReason end = FinishReason::kNone;
  while (!scheduler.idle()) end = scheduler.commit(scheduler.next(), {7}).at(0).finish;
  return end;
}

TEST(SchedulerLoopGuard, CountsTheAnswerAloneAndLetsItsLengthGoFirst) {
  EXPECT_EQ(end_of_sevens(2000, 500), FinishReason::kLength) << "the prompt is not the answer's";
  EXPECT_EQ(end_of_sevens(1, 1024), FinishReason::kLength) << "it ends there anyway";
  EXPECT_EQ(end_of_sevens(1, 1025), FinishReason::kRepetition);
  EXPECT_EQ(end_of_sevens(1, -1), FinishReason::kRepetition);
}

TEST_F(EngineSamplingTest, LogProbsAreTheModelsOwnWhateverIsDrawn) {
  const std::unique_ptr<Engine> e = engine(3);
  Request plain = with_everything(12), zero = with_everything(12), twenty = with_everything(12);
  zero.sampling.logprobs = 0;
  twenty.sampling.logprobs = 20;
  const RequestId a = e->submit(plain), b = e->submit(zero), c = e->submit(twenty);
  const std::map<RequestId, Generated> got = run(*e);
  EXPECT_TRUE(got.at(a).log_probs.empty());
  EXPECT_EQ(got.at(b).ids, got.at(a).ids) << "asking changes nothing";
  EXPECT_EQ(got.at(c).ids, got.at(a).ids);
  ASSERT_EQ(got.at(b).log_probs.size(), 12u);
  ASSERT_EQ(got.at(c).log_probs.size(), 12u);

  std::vector<TokenId> text = plain.prompt;
  for (size_t i = 0; i < 12; ++i) {
    const std::vector<float> logits = last_logits(*e, text);
    double sum = 0;
    for (const float l : logits) sum += std::exp(static_cast<double>(l));
    const auto want = [&](TokenId id) {
      return static_cast<double>(logits[static_cast<size_t>(id)]) - std::log(sum);
    };
    const TokenId id = got.at(a).ids[i];
    const TokenLogProbs &none = got.at(b).log_probs[i], &top = got.at(c).log_probs[i];
    EXPECT_NEAR(none.log_prob, want(id), 1e-5);
    EXPECT_EQ(none.log_prob, top.log_prob);
    EXPECT_TRUE(none.top.empty());
    ASSERT_EQ(top.top.size(), 20u);
    std::vector<TokenId> order;
    for (TokenId v = 0; v < std::ssize(logits); ++v) order.push_back(v);
    std::stable_sort(order.begin(), order.end(), [&](TokenId x, TokenId y) {
      return logits[static_cast<size_t>(x)] > logits[static_cast<size_t>(y)];
    });
    for (size_t k = 0; k < 20; ++k) {
      EXPECT_EQ(top.top[k].id, order[k]);
      EXPECT_NEAR(top.top[k].log_prob, want(order[k]), 1e-5);
    }
    text.push_back(id);
  }
}

TEST_F(EngineSamplingTest, AnEndWithoutATokenHasNoLogProb) {
  const std::unique_ptr<Engine> e = engine(1);
  Request r = request(5);
  r.ignore_eos = false;
  r.sampling.logprobs = 3;
  r.sampling.logit_bias = {{e->info().eos_ids.at(0), 100}};
  const Generated got = run_one(*e, r);
  EXPECT_EQ(got.finish, FinishReason::kStop);
  EXPECT_TRUE(got.log_probs.empty());
}

TEST_F(EngineSamplingTest, NumbersOutOfRangeAreRefusedAtTheDoor) {
  const std::unique_ptr<Engine> e = engine(1);
  Request r = request(5);
  r.sampling.logprobs = 21;
  EXPECT_EQ(test::error_of([&] { e->submit(r); }, ErrorKind::kUsage),
            "logprobs is 21, expected -1 or 0 to 20");
  r = request(5);
  r.sampling.dry_base = std::nan("");
  EXPECT_EQ(test::error_of([&] { e->submit(r); }, ErrorKind::kUsage),
            "dry_base is nan, expected 1 to 100");
}

// The same seed, the same text, whoever else is in the batch and however they sample.
TEST_F(EngineSamplingTest, NeighboursDoNotMatter) {
  const Generated alone = run_one(*engine(1), with_everything(40));
  ASSERT_EQ(alone.ids.size(), 40u);
  const std::unique_ptr<Engine> e = engine(4);
  Request other = with_everything(60), greedy = request(25), plain = request(50);
  other.sampling.seed = 3;
  other.sampling.logprobs = 5;
  other.prompt.insert(other.prompt.end(), 40, 8);
  plain.sampling.temperature = 1.3;
  e->submit(other);
  const RequestId first = e->submit(with_everything(40));
  e->submit(greedy);
  e->step();
  e->step();
  const RequestId later = e->submit(with_everything(40));
  e->submit(plain);  // waits for a place
  std::map<RequestId, Generated> got = run(*e);
  // What the two steps gave is missing from `got`: compare the ends.
  const std::vector<TokenId>& ids = got.at(first).ids;
  EXPECT_TRUE(std::equal(ids.rbegin(), ids.rend(), alone.ids.rbegin()));
  EXPECT_GE(ids.size(), 37u);
  EXPECT_EQ(got.at(later).ids, alone.ids);
}

class SamplesTest : public EngineSamplingTest {
 protected:
  static AnswerRequest answer_request(int64_t n) {
    AnswerRequest out;
    out.request = with_everything(n);
    return out;
  }
  const std::unique_ptr<Tokenizer> tokenizer_ = test::load_fixture();
};

// Answer i of n is the one-shot answer with sample_index i, whatever n is and however many places
// the engine has.
TEST_F(SamplesTest, EachIsTheAnswerOfItsIndexWhateverN) {
  std::vector<Answer> alone;
  for (int64_t i = 0; i < 5; ++i) {
    AnswerRequest r = answer_request(30);
    r.request.sampling.sample_index = i;
    r.request.sampling.logprobs = 2;
    alone.push_back(run_to_end(*engine(1, tokenizer_.get()), tokenizer_.get(), r));
    ASSERT_EQ(alone.back().ids.size(), 30u);
    for (int64_t j = 0; j < i; ++j) EXPECT_NE(alone.back().ids, alone[static_cast<size_t>(j)].ids);
  }
  for (const int64_t max_seqs : {1, 3, 5}) {
    const std::unique_ptr<Engine> e = engine(max_seqs, tokenizer_.get());
    for (const int64_t n : {1, 2, 5}) {
      AnswerRequest r = answer_request(30);
      r.request.sampling.logprobs = 2;
      const std::vector<Answer> got = run_samples(*e, tokenizer_.get(), r, n);
      ASSERT_EQ(std::ssize(got), n);
      for (size_t i = 0; i < got.size(); ++i) {
        EXPECT_EQ(got[i].ids, alone[i].ids) << i << " of " << n;
        EXPECT_EQ(got[i].content, alone[i].content);
        EXPECT_EQ(got[i].log_probs, alone[i].log_probs);
        EXPECT_EQ(got[i].finish, alone[i].finish);
      }
    }
  }
}

TEST_F(SamplesTest, StopStringsEndEachAnswerAlone) {
  const std::unique_ptr<Engine> e = engine(4, tokenizer_.get());
  const std::vector<Answer> whole = run_samples(*e, tokenizer_.get(), answer_request(30), 4);
  // Something that the second answer says and the first does not.
  std::string stop;
  for (size_t i = 3; i + 2 < whole[1].content.size() && stop.empty(); ++i) {
    const std::string two = whole[1].content.substr(i, 2);
    if (static_cast<unsigned char>(two[0]) < 0x80 && static_cast<unsigned char>(two[1]) < 0x80 &&
        whole[0].content.find(two) == std::string::npos)
      stop = two;
  }
  ASSERT_FALSE(stop.empty());
  AnswerRequest r = answer_request(30);
  r.stop = {stop};
  const std::vector<Answer> got = run_samples(*e, tokenizer_.get(), r, 4);
  EXPECT_EQ(got[0].ids, whole[0].ids);
  EXPECT_EQ(got[0].finish, FinishReason::kLength);
  EXPECT_EQ(got[1].content, whole[1].content.substr(0, whole[1].content.find(stop)));
  EXPECT_EQ(got[1].finish, FinishReason::kStop);
  EXPECT_LT(got[1].ids.size(), 30u);
  EXPECT_TRUE(e->idle());
}

TEST_F(SamplesTest, PiecesSayWhoseTheyAreAndWhenItEnds) {
  const std::unique_ptr<Engine> e = engine(3, tokenizer_.get());
  std::vector<std::string> text(3);
  std::vector<int> last(3, 0);
  const std::vector<Answer> got =
      run_samples(*e, tokenizer_.get(), answer_request(20), 3, [&](const SamplePiece& p) {
        const auto i = static_cast<size_t>(p.sample);
        EXPECT_EQ(last.at(i), 0) << "nothing comes after the end";
        text.at(i) += p.piece.text;
        last.at(i) += p.last ? 1 : 0;
        return true;
      });
  EXPECT_EQ(last, std::vector<int>(3, 1));
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(text[i], got[i].content);
}

TEST_F(SamplesTest, TheCallerMayEndThemAll) {
  const std::unique_ptr<Engine> e = engine(2, tokenizer_.get());
  int calls = 0;
  const std::vector<Answer> got = run_samples(*e, tokenizer_.get(), answer_request(200), 4,
                                              [&](const SamplePiece&) { return ++calls < 9; });
  ASSERT_EQ(got.size(), 4u);
  for (const Answer& a : got) EXPECT_EQ(a.finish, FinishReason::kCancelled);
  EXPECT_TRUE(e->idle());
  EXPECT_EQ(
      test::error_of([&] { run_samples(*e, nullptr, answer_request(1), 0); }, ErrorKind::kUsage),
      "n is 0, expected at least 1");
}

}  // namespace
}  // namespace dsr
