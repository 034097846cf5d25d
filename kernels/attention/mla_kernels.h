// The kernels behind mla_attention that only sm_90 has.
#pragma once

#include "ops/mla.h"

namespace dsr::cuda {

// The decode rows of a call whose rows tiled_attention takes as well: all tokens of a batch that
// has no more of them than sequences, else those that are alone in their sequence's part.
void mla_decode_sm90(Exec& exec, const MlaAttentionArgs& a);

}  // namespace dsr::cuda
