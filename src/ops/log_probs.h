// Log-probabilities of tokens that were drawn, and of the likeliest.
//
//   log_prob(id) = logit(id) - log(sum over the vocabulary of exp(logit))
//
// of the logits as the model gave them: before penalties, biases, temperature and cuts, ids without
// a tokenizer entry included. So they do not depend on how the token was drawn, and -log_prob is
// what perplexity counts. The sum is taken in float64 over logit - max, by ascending id.
#pragma once

#include "device/exec.h"

namespace dsr {

struct LogProbsArgs {
  Tensor log_probs;  // [L] f32, out: of the token that was drawn; 0 where it is -1
  Tensor top_ids;    // [L, K] i32, out: the largest logits, largest first, the lower id of equals
  Tensor top_log_probs;  // [L, K] f32, out
  Tensor logits;         // [R, V] f32
  Tensor token_ids;      // [R] i32: what `sample` drew; -1 where a logit was not finite
  Tensor rows;           // [L] i32: the rows of logits that are wanted
};
namespace ops {
void log_probs(Exec& exec, const LogProbsArgs& a);
}
namespace ref {
void log_probs(Exec& exec, const LogProbsArgs& a);
}
namespace cuda {
void log_probs(Exec& exec, const LogProbsArgs& a);
}
namespace cpu {
void log_probs(Exec& exec, const LogProbsArgs& a);
}

}  // namespace dsr
