// From a StepPlan to the arrays of a forward pass.
#pragma once

#include <vector>

#include "engine/step_plan.h"
#include "model/forward_batch.h"
#include "ops/sample.h"

namespace dsr {

// The host's side of a ForwardBatch and of the sampling arguments.
struct HostBatch {
  std::vector<int32_t> token_ids;  // -1 - r: what row r of the step before draws
  std::vector<int32_t> positions;
  std::vector<int64_t> slots;
  std::vector<int32_t> cu_seqlens_q;
  std::vector<int32_t> seq_lens;
  std::vector<int32_t> block_table;  // [S, max_blocks], row-major; unused entries are 0
  int64_t max_blocks = 0;
  std::vector<int32_t> logit_rows;
  PromptPart prompts;
  std::vector<SampleRow> sample_rows;  // one per logit row
  std::vector<int32_t> history;        // what the penalties look at
  std::vector<int32_t> bias_ids;       // of all rows
  std::vector<float> bias_values;
  std::vector<int32_t> log_prob_rows;  // sample rows whose log-probabilities are wanted
  int64_t n_top_log_probs = 0;         // the most that one of them wants of the likeliest
};

// One sequence's part of a batch.
struct BatchSlice {
  const Sequence& sequence;
  int64_t first, count;
  std::vector<int32_t> logit_rows;  // counted from `first`
  int32_t drawn_by = -1;            // as in a Slice
};

// The columns of a block table for so many sequences, of which the longest has `most_blocks`: the
// smallest of a few widths that is enough, since attention has a grid, and a step a graph, for
// each. For a sequence alone these are 2K tokens, 8K and an answer's, and the context; for two half
// of 8K and the context, and so on up to eight.
int64_t table_width(int64_t n_seqs, int64_t most_blocks, int64_t max_blocks);

// Appends a slice; `max_blocks` columns in the block table.
void append_slice(HostBatch& batch, const BatchSlice& slice);
HostBatch build_batch(const StepPlan& plan, int64_t max_blocks);

}  // namespace dsr
