// How one token's keys and values are stored in a page of the KV cache. One quantiser for every
// backend.
#pragma once

#include <cstdint>

#include "base/math.h"
#include "tensor/tensor.h"

namespace dsr {

enum class CacheType { kF32, kBF16, kFP8 };
const char* name(CacheType type);

// Tokens per page; block ids are shared by all layers.
inline constexpr int64_t kPageTokens = 64;

// MLA: a row holds the normed latent c_kv, then the rotated shared key k_pe (DeepSeek-V2 report,
// arXiv:2405.04434, section 2.1). As fp8: the latent in e4m3, one float32 scale per started group
// of 128, k_pe in bf16, padded to 16 bytes (656 bytes for 512 + 64).
struct MlaRowFormat {
  CacheType type = CacheType::kF32;
  int64_t kv_lora_rank = 0;
  int64_t qk_rope_head_dim = 0;

  static constexpr int64_t kGroup = 128;
  int64_t groups() const { return ceil_div(kv_lora_rank, kGroup); }
  int64_t row_bytes() const;
  int64_t page_bytes() const { return kPageTokens * row_bytes(); }

  // latent [kv_lora_rank], k_pe [qk_rope_head_dim] -> row, and back.
  void encode(const float* latent, const float* k_pe, void* row) const;
  void decode(const void* row, float* latent, float* k_pe) const;
};

// MHA and GQA: a page holds the rotated keys, then the values, each
// [kv_head][kPageTokens][head_dim]; as fp8 each is followed by one float32 scale per head and
// token, [kv_head][kPageTokens].
struct GqaPageFormat {
  CacheType type = CacheType::kF32;
  int64_t n_kv_heads = 0;
  int64_t head_dim = 0;

  int64_t page_bytes() const { return 2 * half_page_bytes(); }

  // Stores a token's keys and values, both [n_kv_heads, head_dim], at `offset` in the page.
  void encode(const float* k, const float* v, std::byte* page, int64_t offset) const;
  // The key or value [head_dim] of one head of the token at `offset`.
  void decode_key(const std::byte* page, int64_t head, int64_t offset, float* out) const;
  void decode_value(const std::byte* page, int64_t head, int64_t offset, float* out) const;

 private:
  int64_t half_page_bytes() const;
  void encode_half(const float* rows, std::byte* half, int64_t offset) const;
  void decode_half(const std::byte* half, int64_t head, int64_t offset, float* out) const;
};

// One layer's pages of an MHA or GQA cache.
struct GqaCacheView {
  GqaPageFormat format;
  Tensor pages;  // [n_blocks, page_bytes] u8
};

// One layer's pages of an MLA cache.
struct MlaCacheView {
  MlaRowFormat format;
  Tensor pages;  // [n_blocks, page_bytes] u8
};

}  // namespace dsr
