// Steps of a rank on a GPU: recorded and not.
#include <gtest/gtest.h>

#include <algorithm>

#include "engine/runner.h"
#include "engine/sequence.h"
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
    o.limits.max_tokens = kContext;
    o.limits.max_seqs = kSeqs;
    o.limits.max_logit_rows = kSeqs;
    o.limits.max_blocks = blocks_for(kContext);
    o.limits.n_blocks = kSeqs * o.limits.max_blocks;
    o.limits.max_history = kSeqs * kContext;
    o.limits.max_biases = 8;
    o.decode_graphs = graphs;
    return o;
  }

  // The next token of each sequence, drawn at temperature 1 with a penalty on all before.
  static HostBatch batch_of(const std::vector<Sequence*>& sequences) {
    HostBatch b;
    b.max_blocks = blocks_for(kContext);
    for (Sequence* s : sequences) {
      const auto n = std::ssize(s->tokens());
      EXPECT_TRUE(s->reserve(n));
      const int64_t count = n - s->n_computed();
      append_slice(b, {*s, s->n_computed(), count, {static_cast<int32_t>(count - 1)}});
      SampleRow row{.temperature = 1, .top_p = 0.95f, .repetition_penalty = 1.1f};
      row.seed = b.sample_rows.size();
      row.position = n;
      row.history_begin = static_cast<int32_t>(b.history.size());
      b.history.insert(b.history.end(), s->tokens().begin(), s->tokens().end());
      row.history_end = static_cast<int32_t>(b.history.size());
      b.sample_rows.push_back(row);
      s->mark_computed(count);
    }
    return b;
  }

  // 40 tokens of kSeqs sequences that start at different lengths; every fifth step leaves one out.
  std::vector<TokenId> generate(bool graphs) const {
    const TinyCheckpoint checkpoint(GetParam());
    const Golden golden = Golden::load(GetParam());
    Runner runner(options(graphs), checkpoint.config(), checkpoint, /*dry_run=*/false);
    runner.set_allowed(std::vector<int32_t>(
        static_cast<size_t>(ceil_div(checkpoint.config().vocab_size, 32)), -1));
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
