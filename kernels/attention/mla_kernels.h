// The kernels behind mla_attention that only sm_90 has.
#pragma once

#include "gemm/linear_kernels.h"
#include "ops/mla.h"

namespace dsr::cuda {

// The decode rows of a call whose rows tiled_attention takes as well: all tokens of a batch that
// has no more of them than sequences, else those that are alone in their sequence's part.
void mla_decode_sm90(Exec& exec, const MlaAttentionArgs& a);

// The same and W_UV, where all tokens are decode rows and few: `value` reads a.out, of which this
// writes only what it needs.
bool mla_merges_value(Exec& exec, const DenseProduct& value);
void mla_decode_value_sm90(Exec& exec, const MlaAttentionArgs& a, const DenseProduct& value);

}  // namespace dsr::cuda
