// Steps of a rank on a GPU: recorded and not.
#include <gtest/gtest.h>

#include <algorithm>

#include "engine/sampled_batch.h"
#include "support/golden.h"
#include "support/tiny_checkpoint.h"

namespace dsr::test {
namespace {

constexpr int64_t kContext = 192, kSeqs = 5;

class CudaRunner : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (cuda_devices().empty()) GTEST_SKIP() << cuda_absence();
  }

  RunnerOptions options(bool graphs) const {
    RunnerOptions o;
    o.backend = Backend::kCuda;
    o.cache_type = CacheType::kBF16;
    o.max_positions = kContext;
    o.limits = limits_of(kSeqs, kContext);
    o.decode_graphs = graphs;
    return o;
  }

  static HostBatch batch_of(const std::vector<Sequence*>& sequences) {
    return sampled_batch(sequences, kContext, kContext);
  }

  // 40 tokens of kSeqs sequences that start at different lengths; every fifth step leaves one out.
  std::vector<TokenId> generate(bool graphs) const {
    const TinyCheckpoint checkpoint(GetParam());
    const Golden golden = Golden::load(GetParam());
    Runner runner(options(graphs), checkpoint.config(), checkpoint, /*dry_run=*/false);
    runner.set_allowed(all_allowed(checkpoint.config().vocab_size));
    BlockPool pool(kSeqs * blocks_for(kContext));
    std::vector<std::unique_ptr<Sequence>> sequences;
    std::vector<TokenId> out;
    for (int64_t i = 0; i < kSeqs; ++i) {
      sequences.push_back(std::make_unique<Sequence>(pool));
      sequences.back()->start_prompt(
          std::span(golden.input_ids).first(static_cast<size_t>(1 + 16 * i)));
      sequences.back()->append(runner.step(batch_of({sequences.back().get()})).tokens.at(0));
    }
    for (int64_t step = 0; step < 40; ++step) {
      std::vector<Sequence*> now;
      for (int64_t i = 0; i < kSeqs; ++i)
        if (step % 5 != 4 || i != step % kSeqs)
          now.push_back(sequences[static_cast<size_t>(i)].get());
      const std::vector<TokenId> tokens = runner.step(batch_of(now)).tokens;
      for (size_t i = 0; i < now.size(); ++i) now[i]->append(tokens.at(i));
      out.insert(out.end(), tokens.begin(), tokens.end());
    }
    return out;
  }
};

INSTANTIATE_TEST_SUITE_P(Tiny, CudaRunner, testing::ValuesIn(all_goldens()), test_name);

TEST_P(CudaRunner, AReplayedStepIsTheStep) {
  const std::vector<TokenId> plain = generate(false);
  EXPECT_GT(std::count_if(plain.begin(), plain.end(), [](TokenId id) { return id >= 0; }), 150);
  EXPECT_EQ(generate(true), plain);
}

TEST_P(CudaRunner, WhatIsAllocatedIsWhatADryRunCounts) {
  const TinyCheckpoint checkpoint(GetParam());
  Runner dry(options(true), checkpoint.config(), checkpoint, /*dry_run=*/true);
  Runner real(options(true), checkpoint.config(), checkpoint, /*dry_run=*/false);
  for (const MemoryKind kind :
       {MemoryKind::kWeights, MemoryKind::kKvCache, MemoryKind::kActivations, MemoryKind::kBatch})
    EXPECT_EQ(dry.memory().bytes(kind), real.memory().bytes(kind)) << name(kind);
}

}  // namespace
}  // namespace dsr::test
