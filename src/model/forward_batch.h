// The input of one forward pass: the new tokens of several sequences, ragged.
#pragma once

#include "tensor/tensor.h"

namespace dsr {

// The first sequences of a batch may have one token each; its prompts are those from the first one
// on that has more, in numbers that the host needs to choose kernels.
struct PromptPart {
  int64_t n_seqs = 0;
  int64_t n_tokens = 0;
  int64_t n_rows = 0;   // theirs in the cache after this step, each one's rounded up to whole pages
  int64_t n_seen = 0;   // the same, not rounded
  int64_t n_pairs = 0;  // sum over the sequences of tokens times rows, not rounded
};

// Device views. A decode step and a prefill chunk are the same type; a chunk that does not end its
// prompt asks for no logits.
struct ForwardBatch {
  Tensor token_ids;     // [T] i32; below 0: a row of `drawn` (ops/embedding.h)
  Tensor positions;     // [T] i32: index in the sequence, and in its block table
  Tensor slots;         // [T] i64: where the token's keys go: block * kPageTokens + offset
  Tensor cu_seqlens_q;  // [S + 1] i32: sequence s owns the tokens [cu[s], cu[s + 1])
  Tensor seq_lens;      // [S] i32: tokens in the cache after this step
  Tensor block_table;   // [S, max_blocks] i32
  Tensor logit_rows;    // [R] i32: tokens whose logits are wanted
  Tensor drawn;         // [rows] i32: the tokens of the step before; or empty
  PromptPart prompts;

  int64_t n_tokens() const { return token_ids.shape[0]; }
  int64_t n_seqs() const { return seq_lens.shape[0]; }
  int64_t n_logit_rows() const { return logit_rows.shape[0]; }
};

}  // namespace dsr
