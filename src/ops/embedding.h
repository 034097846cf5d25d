// Token embedding: a table look-up.
//
//   out[t] = table[id]
//   id     = token_ids[t], or drawn[-1 - token_ids[t]] where that is negative
//
// A negative id names a row of the step before, whose token the host need not know yet. A row that
// drew none (-1: a logit was not finite) goes on with token 0.
#pragma once

#include "device/exec.h"

namespace dsr {

struct EmbeddingArgs {
  Tensor out;         // [T, D] activation
  Tensor token_ids;   // [T]    i32, each in [-R, V)
  Tensor table;       // [V, D] bf16 | f16 | f32
  Tensor drawn = {};  // [R]    i32, each in [-1, V); or empty, R is 0
};
namespace ops {
void embedding(Exec& exec, const EmbeddingArgs& a);
}
namespace ref {
void embedding(Exec& exec, const EmbeddingArgs& a);
}
namespace cuda {
void embedding(Exec& exec, const EmbeddingArgs& a);
}
namespace cpu {
using ref::embedding;
}

}  // namespace dsr
