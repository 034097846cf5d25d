// Token embedding: a table look-up.
//
//   out[t] = table[token_ids[t]]
#pragma once

#include "device/exec.h"

namespace dsr {

struct EmbeddingArgs {
  Tensor out;        // [T, D] activation
  Tensor token_ids;  // [T]    i32, each in [0, V)
  Tensor table;      // [V, D] bf16 | f16 | f32
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
