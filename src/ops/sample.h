// From logits to tokens.
//
// The stages of a row, in this order:
//   1. a logit that is not finite sets the row's flag; nothing is drawn and the token is -1
//   2. ids without a tokenizer entry are out
//   3. repetition penalty, then presence and frequency penalties, over the window of earlier tokens
//   4. biases are added: logit_bias and DRY, which the host computes (src/sampling/dry.h)
//   5. temperature 0: the largest logit (the lowest id on a tie). Otherwise logits / temperature
//   6. top_k: the k largest; top_p: of those, the shortest run, largest first, that reaches the
//      probability top_p; min_p: of those, the ones at least min_p times as likely as the best
//   7. token = argmax of logit / T + g(id) over the kept, g = -log(-log(u)), u from
//      Philox(seed; position, sample_index, id): the Gumbel-max form of a draw from the softmax.
//      The draw depends on the seed and where it is made, never on the batch or the kept set's
//      order
//
// The logits themselves are not changed: log_probs reads them afterwards.
#pragma once

#include "device/exec.h"

namespace dsr {

// One row's parameters. Plain data: it is copied to a device as it is.
struct SampleRow {
  float temperature = 0;         // >= 0
  float top_p = 1;               // (0, 1]; 1 is off
  float min_p = 0;               // [0, 1]; 0 is off
  int32_t top_k = 0;             // 0 is off
  float repetition_penalty = 1;  // > 0; divides positive, multiplies negative logits
  float presence_penalty = 0;    // subtracted once from every id in the window
  float frequency_penalty = 0;   // subtracted once per occurrence
  int32_t sample_index = 0;      // which of several answers to one prompt
  uint64_t seed = 0;
  int64_t position = 0;       // of the token that is drawn
  int32_t history_begin = 0;  // the penalties' window: history[history_begin, history_end)
  int32_t history_end = 0;
  int32_t bias_begin = 0;  // the row's biases: bias_ids[bias_begin, bias_end), each id once
  int32_t bias_end = 0;
};

struct SampleArgs {
  Tensor token_ids;   // [R] i32, out
  Tensor non_finite;  // [R] i32, out: 1 where a logit was NaN or infinite
  Tensor logits;      // [R, V] f32
  Tensor rows;        // [R, sizeof(SampleRow)] u8
  Tensor allowed;   // [ceil(V / 32)] i32: bit i % 32 of word i / 32 is set where id i may be drawn
  Tensor history;   // [P] i32: earlier tokens of all rows, or empty
  Tensor bias_ids;  // [B] i32, or empty
  Tensor bias_values;  // [B] f32, or empty
};
namespace ops {
void sample(Exec& exec, const SampleArgs& a);
}
namespace ref {
void sample(Exec& exec, const SampleArgs& a);
}
namespace cuda {
void sample(Exec& exec, const SampleArgs& a);
}
namespace cpu {
void sample(Exec& exec, const SampleArgs& a);
}

}  // namespace dsr
