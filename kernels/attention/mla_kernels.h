// The kernels behind mla_attention and mla_attention_and_value that only sm_90 has.
#pragma once

#include "ops/mla.h"

namespace dsr::cuda {

struct TiledParams;
struct Partials;
struct PagedBatch;

// MlaShape.
void mla_attention_sm90(Exec& exec, const TiledParams& p, int64_t n_tokens, int64_t n_sequences);

// mla_value of one row that is still in parts, or in a.latent where it is not split; bit for bit
// merge_splits and mla_value. False where it does not take the call.
bool mla_merge_and_value(Exec& exec, const MlaValueArgs& a, const Partials& partials,
                         const PagedBatch& batch, int64_t n_sequences);

}  // namespace dsr::cuda
