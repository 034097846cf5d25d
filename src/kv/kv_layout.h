// How many bytes a token takes in the KV cache, and where they lie.
#pragma once

#include "tensor/kv_format.h"

namespace dsr {

// One cache serves all layers of a model; block ids mean the same block in every layer.
struct KvLayout {
  int64_t n_layers = 0;
  MlaRowFormat mla;  // of every layer

  int64_t bytes_per_token() const { return n_layers * mla.row_bytes(); }
  int64_t bytes_per_block() const { return n_layers * mla.page_bytes(); }
};

// Blocks that hold `tokens` tokens.
constexpr int64_t blocks_for(int64_t tokens) { return ceil_div(tokens, kPageTokens); }

}  // namespace dsr
