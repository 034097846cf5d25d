// Steps of a rank on a GPU: recorded and not.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "engine/sampled_batch.h"
#include "support/golden.h"
#include "support/tiny_checkpoint.h"

namespace dsr::test {
namespace {

constexpr int64_t kSteps = 40;

// Sequences of up to `context` tokens, with prompts of so many, and which of them a step has.
struct Story {
  int64_t context;
  std::vector<int64_t> prompts;
  std::vector<size_t> (*of_step)(int64_t step);
};

// Each at another length; every fifth step leaves one out.
const Story kShort = {192, {1, 17, 33, 49, 65}, [](int64_t step) {
                        std::vector<size_t> now;
                        for (size_t i = 0; i < 5; ++i)
                          if (step % 5 != 4 || i != static_cast<size_t>(step) % 5) now.push_back(i);
                        return now;
                      }};

// Five in each step. One of them outgrows the narrow block table of five, and takes turns with a
// short one.
constexpr int64_t kNarrowTokens = 16 * kPageTokens;
const Story kTwoWidths = {kNarrowTokens + 2 * kPageTokens,
                          {kNarrowTokens - 8, 3, 70, 1, 40, 9},
                          [](int64_t step) -> std::vector<size_t> {
                            if (step % 2 == 0) return {1, 2, 3, 4, 5};
                            return {0, 1, 2, 3, 4};
                          }};

class CudaRunner : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (cuda_devices().empty()) GTEST_SKIP() << cuda_absence();
  }

  static RunnerOptions options(const Story& story, bool graphs) {
    RunnerOptions o;
    o.backend = Backend::kCuda;
    o.cache_type = CacheType::kBF16;
    o.max_positions = story.context;
    o.limits = limits_of(std::ssize(story.prompts), story.context);
    o.decode_graphs = graphs;
    return o;
  }

  struct Result {
    std::vector<TokenId> tokens;
    std::set<int64_t> table_widths;  // of the decode steps
  };
  Result generate(const Story& story, bool graphs) const {
    const TinyCheckpoint checkpoint(GetParam());
    const int64_t vocab_size = checkpoint.config().vocab_size;
    Runner runner(options(story, graphs), checkpoint.config(), checkpoint, /*dry_run=*/false);
    runner.set_allowed(all_allowed(vocab_size));
    BlockPool pool(std::ssize(story.prompts) * blocks_for(story.context));
    std::vector<std::unique_ptr<Sequence>> sequences;
    Result out;
    const auto step = [&](const std::vector<Sequence*>& now) {
      const HostBatch batch = sampled_batch(now, story.context, story.context);
      const std::vector<TokenId> tokens = runner.step(batch).tokens;
      for (size_t i = 0; i < now.size(); ++i) now[i]->append(tokens.at(i));
      out.tokens.insert(out.tokens.end(), tokens.begin(), tokens.end());
      return batch.max_blocks;
    };
    for (const int64_t n : story.prompts) {
      std::vector<TokenId> prompt;
      for (int64_t i = 0; i < n; ++i)
        prompt.push_back(static_cast<TokenId>((17 * i + 5 * n) % vocab_size));
      sequences.push_back(std::make_unique<Sequence>(pool));
      sequences.back()->start_prompt(prompt);
      step({sequences.back().get()});
    }
    for (int64_t s = 0; s < kSteps; ++s) {
      std::vector<Sequence*> now;
      for (const size_t i : story.of_step(s)) now.push_back(sequences[i].get());
      out.table_widths.insert(step(now));
    }
    return out;
  }
};

INSTANTIATE_TEST_SUITE_P(Tiny, CudaRunner, testing::ValuesIn(all_goldens()), test_name);

TEST_P(CudaRunner, AReplayedStepIsTheStep) {
  const Result plain = generate(kShort, false);
  EXPECT_GT(
      std::count_if(plain.tokens.begin(), plain.tokens.end(), [](TokenId id) { return id >= 0; }),
      150);
  EXPECT_EQ(generate(kShort, true).tokens, plain.tokens);
}

TEST_P(CudaRunner, AReplayedStepHasItsOwnTableWidth) {
  const Result plain = generate(kTwoWidths, false);
  EXPECT_EQ(plain.table_widths, (std::set<int64_t>{16, 18}));
  EXPECT_EQ(std::count(plain.tokens.begin(), plain.tokens.end(), -1), 0) << "not finite";
  EXPECT_EQ(generate(kTwoWidths, true).tokens, plain.tokens);
}

TEST_P(CudaRunner, WhatIsAllocatedIsWhatADryRunCounts) {
  const TinyCheckpoint checkpoint(GetParam());
  const RunnerOptions o = options(kShort, true);
  Runner dry(o, checkpoint.config(), checkpoint, /*dry_run=*/true);
  Runner real(o, checkpoint.config(), checkpoint, /*dry_run=*/false);
  for (const MemoryKind kind :
       {MemoryKind::kWeights, MemoryKind::kKvCache, MemoryKind::kActivations, MemoryKind::kBatch})
    EXPECT_EQ(dry.memory().bytes(kind), real.memory().bytes(kind)) << name(kind);
}

}  // namespace
}  // namespace dsr::test
