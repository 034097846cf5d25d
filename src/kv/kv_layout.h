// How many bytes a token takes in the KV cache, and where they lie.
#pragma once

#include <variant>

#include "tensor/kv_format.h"

namespace dsr {

// One cache serves all layers of a model; block ids mean the same block in every layer.
struct KvLayout {
  int64_t n_layers = 0;
  std::variant<MlaRowFormat, GqaPageFormat> format;  // of every layer

  int64_t page_bytes() const {
    return std::visit([](const auto& f) { return f.page_bytes(); }, format);
  }
  int64_t bytes_per_block() const { return n_layers * page_bytes(); }
  int64_t bytes_per_token() const { return bytes_per_block() / kPageTokens; }
};

// Blocks that hold `tokens` tokens.
constexpr int64_t blocks_for(int64_t tokens) { return ceil_div(tokens, kPageTokens); }

}  // namespace dsr
