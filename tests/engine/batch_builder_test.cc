#include "engine/batch_builder.h"

#include <gtest/gtest.h>

#include <memory>

#include "engine/scheduler.h"

namespace dsr::test {
namespace {

// Appends slices of sequences of their own, each of `count` tokens from position `first` on.
HostBatch batch_of(const std::vector<std::pair<int64_t, int64_t>>& slices) {
  BlockPool pool(16);
  std::vector<std::unique_ptr<Sequence>> sequences;
  HostBatch batch;
  batch.max_blocks = 4;
  for (const auto& [first, count] : slices) {
    Sequence& s = *sequences.emplace_back(std::make_unique<Sequence>(pool));
    for (int64_t i = 0; i < first + count; ++i) s.append(7);
    EXPECT_TRUE(s.reserve(first + count));
    append_slice(batch, {s, first, count, {}});
  }
  return batch;
}

TEST(BatchBuilder, PromptsAreTheSequencesFromTheFirstOfSeveralTokensOn) {
  const HostBatch decode = batch_of({{70, 1}, {0, 1}});
  EXPECT_EQ(decode.prompts.n_seqs, 0);
  EXPECT_EQ(decode.prompts.n_tokens, 0);
  EXPECT_EQ(decode.prompts.n_rows, 0);
  const HostBatch mixed = batch_of({{70, 1}, {62, 5}, {10, 1}, {64, 64}});
  EXPECT_EQ(mixed.prompts.n_seqs, 3);
  EXPECT_EQ(mixed.prompts.n_tokens, 5 + 1 + 64);
  EXPECT_EQ(mixed.prompts.n_rows, 128 + 64 + 128);  // whole pages of 64
  EXPECT_EQ(mixed.prompts.n_seen, 67 + 11 + 128);
  EXPECT_EQ(mixed.prompts.n_pairs, 5 * 67 + 1 * 11 + 64 * 128);
}

TEST(BatchBuilder, FewPagesHaveANarrowTable) {
  EXPECT_EQ(table_width(1, 1, 512), 33);
  EXPECT_EQ(table_width(1, 33, 512), 33);
  EXPECT_EQ(table_width(1, 34, 512), 132);
  EXPECT_EQ(table_width(1, 132, 512), 132);
  EXPECT_EQ(table_width(1, 133, 512), 512);
  EXPECT_EQ(table_width(2, 66, 512), 66);
  EXPECT_EQ(table_width(3, 33, 512), 33);
  EXPECT_EQ(table_width(3, 34, 512), 512);
  EXPECT_EQ(table_width(8, 16, 512), 16);
  EXPECT_EQ(table_width(9, 1, 512), 512);
  EXPECT_EQ(table_width(1, 3, 4), 4);  // the context is shorter
  EXPECT_EQ(table_width(1, 34, 60), 60);
  EXPECT_EQ(table_width(8, 5, 9), 9);
}

TEST(BatchBuilder, TheLongestSequenceDecidesTheTablesWidth) {
  BlockPool pool(80);
  const auto width_for = [&](const std::vector<int64_t>& n_tokens) {
    std::vector<std::unique_ptr<RunningRequest>> requests;
    StepPlan plan;
    for (const int64_t n : n_tokens) {
      RunningRequest& r = *requests.emplace_back(std::make_unique<RunningRequest>());
      r.sequence = std::make_shared<Sequence>(pool);
      for (int64_t i = 0; i < n; ++i) r.sequence->append(7);
      EXPECT_TRUE(r.sequence->reserve(n));
      plan.slices.push_back({&r, n - 1, 1, /*wants_logits=*/false});
    }
    const HostBatch batch = build_batch(plan, /*max_blocks=*/512);
    EXPECT_EQ(std::ssize(batch.block_table), std::ssize(n_tokens) * batch.max_blocks);
    return batch.max_blocks;
  };
  EXPECT_EQ(width_for({5, 66 * 64}), 66);
  EXPECT_EQ(width_for({5, 66 * 64 + 1}), 512);
}

}  // namespace
}  // namespace dsr::test
