// A step of several sequences, without a scheduler.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "engine/batch_builder.h"
#include "engine/runner.h"
#include "engine/sequence.h"

namespace dsr::test {

// What `seqs` sequences of up to `context` tokens need, all of a prompt in one step.
inline StepLimits limits_of(int64_t seqs, int64_t context) {
  StepLimits l;
  l.max_tokens = context;
  l.max_seqs = seqs;
  l.max_logit_rows = seqs;
  l.max_blocks = blocks_for(context);
  l.n_blocks = seqs * l.max_blocks;
  l.max_history = seqs * context;
  l.max_biases = 8;
  return l;
}

// Every id may be drawn.
inline std::vector<int32_t> all_allowed(int64_t vocab_size) {
  return std::vector<int32_t>(static_cast<size_t>(ceil_div(vocab_size, 32)), -1);
}

// The next token of each sequence, drawn at temperature 1 with a penalty on the `window` before.
inline HostBatch sampled_batch(const std::vector<Sequence*>& sequences, int64_t context,
                               int64_t window) {
  HostBatch b;
  int64_t most_blocks = 0;
  for (Sequence* s : sequences) {
    EXPECT_TRUE(s->reserve(std::ssize(s->tokens())));
    most_blocks = std::max(most_blocks, std::ssize(s->blocks()));
  }
  b.max_blocks = table_width(std::ssize(sequences), most_blocks, blocks_for(context));
  for (Sequence* s : sequences) {
    const auto n = std::ssize(s->tokens());
    const int64_t count = n - s->n_computed();
    append_slice(b, {*s, s->n_computed(), count, {static_cast<int32_t>(count - 1)}});
    SampleRow row{.temperature = 1, .top_p = 0.95f, .repetition_penalty = 1.1f};
    row.seed = b.sample_rows.size();
    row.position = n;
    row.history_begin = static_cast<int32_t>(b.history.size());
    b.history.insert(b.history.end(), s->tokens().end() - std::min(n, window), s->tokens().end());
    row.history_end = static_cast<int32_t>(b.history.size());
    b.sample_rows.push_back(row);
    s->mark_computed(count);
  }
  return b;
}

}  // namespace dsr::test
