#include "engine/batch_builder.h"

#include <algorithm>
#include <bit>

#include "base/error.h"
#include "engine/scheduler.h"
#include "kv/kv_layout.h"

namespace dsr {
namespace {

// The sampling parameters of the token that follows the slice.
void append_sampling(HostBatch& b, const Slice& slice) {
  RunningRequest& r = *slice.request;
  const SamplingParams& p = r.request.sampling;
  const std::vector<TokenId>& tokens = r.sequence->tokens();
  SampleRow row;
  row.temperature = static_cast<float>(p.temperature);
  row.top_k = static_cast<int32_t>(p.top_k);
  row.top_p = static_cast<float>(p.top_p);
  row.min_p = static_cast<float>(p.min_p);
  row.repetition_penalty = static_cast<float>(p.repetition_penalty);
  row.presence_penalty = static_cast<float>(p.presence_penalty);
  row.frequency_penalty = static_cast<float>(p.frequency_penalty);
  row.sample_index = static_cast<int32_t>(p.sample_index);
  row.seed = p.seed;
  row.position = slice.first + slice.count;
  row.history_begin = static_cast<int32_t>(b.history.size());
  if (penalises(p)) {
    const auto n = static_cast<int64_t>(tokens.size());
    const int64_t window = p.penalty_window < 0 ? n : std::min(n, p.penalty_window);
    b.history.insert(b.history.end(), tokens.end() - window, tokens.end());
  }
  row.history_end = static_cast<int32_t>(b.history.size());
  row.bias_begin = static_cast<int32_t>(b.bias_ids.size());
  for (const auto& [id, bias] : r.sampler->biases(tokens)) {
    b.bias_ids.push_back(id);
    b.bias_values.push_back(bias);
  }
  row.bias_end = static_cast<int32_t>(b.bias_ids.size());
  if (p.logprobs >= 0) {
    b.log_prob_rows.push_back(static_cast<int32_t>(b.sample_rows.size()));
    b.n_top_log_probs = std::max(b.n_top_log_probs, p.logprobs);
  }
  b.sample_rows.push_back(row);
}

}  // namespace

void append_slice(HostBatch& b, const BatchSlice& s) {
  if (b.cu_seqlens_q.empty()) b.cu_seqlens_q.push_back(0);
  const auto first_token = static_cast<int32_t>(b.token_ids.size());
  const std::vector<int32_t>& blocks = s.sequence.blocks();
  for (int64_t i = s.first; i < s.first + s.count; ++i) {
    b.token_ids.push_back(s.drawn_by >= 0 ? -1 - s.drawn_by
                                          : s.sequence.tokens().at(static_cast<size_t>(i)));
    b.positions.push_back(static_cast<int32_t>(i));
    const int64_t block = blocks.at(static_cast<size_t>(i / kPageTokens));
    b.slots.push_back(block * kPageTokens + i % kPageTokens);
  }
  b.cu_seqlens_q.push_back(static_cast<int32_t>(b.token_ids.size()));
  b.seq_lens.push_back(static_cast<int32_t>(s.first + s.count));
  DSR_CHECK(static_cast<int64_t>(blocks.size()) <= b.max_blocks, blocks.size(), b.max_blocks);
  b.block_table.insert(b.block_table.end(), blocks.begin(), blocks.end());
  b.block_table.resize(b.seq_lens.size() * static_cast<size_t>(b.max_blocks), 0);
  for (const int32_t row : s.logit_rows) b.logit_rows.push_back(first_token + row);
  if (s.count > 1 || b.prompts.n_seqs > 0) {
    ++b.prompts.n_seqs;
    b.prompts.n_tokens += s.count;
    b.prompts.n_rows += round_up(s.first + s.count, kPageTokens);
    b.prompts.n_seen += s.first + s.count;
    b.prompts.n_pairs += s.count * (s.first + s.count);
  }
}

int64_t table_width(int64_t n_seqs, int64_t most_blocks, int64_t max_blocks) {
  // What attention/mla_page.cuh takes with 132 SMs; with fewer it is a smaller grid, no more. A
  // sequence alone that needs no more than half of them (two blocks a page) leaves the others to
  // the kernels behind it.
  constexpr int64_t kNarrow = 132, kMostSeqs = 8, kShort = kNarrow / 4;
  if (n_seqs == 1 && most_blocks <= kShort) return std::min(kShort, max_blocks);
  if (n_seqs > kMostSeqs) return max_blocks;
  const int64_t narrow =
      kNarrow / static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(n_seqs)));
  return most_blocks <= narrow ? std::min(narrow, max_blocks) : max_blocks;
}

HostBatch build_batch(const StepPlan& plan, int64_t max_blocks) {
  int64_t most_blocks = 0;
  for (const Slice& s : plan.slices)
    most_blocks = std::max(most_blocks, std::ssize(s.request->sequence->blocks()));
  HostBatch b;
  b.max_blocks = table_width(std::ssize(plan.slices), most_blocks, max_blocks);
  b.block_table.reserve(plan.slices.size() * static_cast<size_t>(b.max_blocks));
  for (const Slice& s : plan.slices) {
    BatchSlice slice{*s.request->sequence, s.first, s.count, {}, s.drawn_by};
    if (s.wants_logits) {
      slice.logit_rows.push_back(static_cast<int32_t>(s.count - 1));
      append_sampling(b, s);
    }
    append_slice(b, slice);
  }
  return b;
}

}  // namespace dsr
