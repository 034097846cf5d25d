#include "tensor/kv_format.h"

#include <algorithm>
#include <cstring>

#include "tensor/dtype.h"
#include "tensor/quant.h"

namespace dsr {
namespace {

constexpr int64_t kFp8RowAlign = 16;

}  // namespace

const char* name(CacheType type) {
  switch (type) {
    case CacheType::kF32:
      return "f32";
    case CacheType::kBF16:
      return "bf16";
    case CacheType::kFP8:
      return "fp8";
  }
  return "?";
}

int64_t MlaRowFormat::row_bytes() const {
  switch (type) {
    case CacheType::kF32:
      return (kv_lora_rank + qk_rope_head_dim) * 4;
    case CacheType::kBF16:
      return (kv_lora_rank + qk_rope_head_dim) * 2;
    case CacheType::kFP8:
      return round_up(round_up(kv_lora_rank, 4) + groups() * 4 + qk_rope_head_dim * 2,
                      kFp8RowAlign);
  }
  return 0;
}

void MlaRowFormat::encode(const float* latent, const float* k_pe, void* row) const {
  auto* bytes = static_cast<std::byte*>(row);
  if (type != CacheType::kFP8) {
    const DType t = type == CacheType::kF32 ? DType::kF32 : DType::kBF16;
    from_f32(t, latent, bytes, kv_lora_rank);
    from_f32(t, k_pe, bytes + kv_lora_rank * size_bytes(t), qk_rope_head_dim);
    return;
  }
  auto* codes = reinterpret_cast<uint8_t*>(bytes);
  std::byte* scales = bytes + round_up(kv_lora_rank, 4);
  for (int64_t g = 0; g < groups(); ++g) {
    const int64_t first = g * kGroup, n = std::min(kGroup, kv_lora_rank - first);
    const float scale = e4m3_scale(latent + first, n);
    quantize_e4m3(latent + first, n, scale, codes + first);
    std::memcpy(scales + g * 4, &scale, 4);
  }
  from_f32(DType::kBF16, k_pe, scales + groups() * 4, qk_rope_head_dim);
}

void MlaRowFormat::decode(const void* row, float* latent, float* k_pe) const {
  const auto* bytes = static_cast<const std::byte*>(row);
  if (type != CacheType::kFP8) {
    const DType t = type == CacheType::kF32 ? DType::kF32 : DType::kBF16;
    to_f32(t, bytes, latent, kv_lora_rank);
    to_f32(t, bytes + kv_lora_rank * size_bytes(t), k_pe, qk_rope_head_dim);
    return;
  }
  const auto* codes = reinterpret_cast<const uint8_t*>(bytes);
  const std::byte* scales = bytes + round_up(kv_lora_rank, 4);
  for (int64_t g = 0; g < groups(); ++g) {
    const int64_t first = g * kGroup, n = std::min(kGroup, kv_lora_rank - first);
    float scale = 0;
    std::memcpy(&scale, scales + g * 4, 4);
    dequantize_e4m3(codes + first, n, scale, latent + first);
  }
  to_f32(DType::kBF16, scales + groups() * 4, k_pe, qk_rope_head_dim);
}

int64_t GqaPageFormat::half_page_bytes() const {
  const int64_t rows = n_kv_heads * kPageTokens;
  switch (type) {
    case CacheType::kF32:
      return rows * head_dim * 4;
    case CacheType::kBF16:
      return rows * head_dim * 2;
    case CacheType::kFP8:
      return rows * (head_dim + 4);
  }
  return 0;
}

void GqaPageFormat::encode_half(const float* values, std::byte* half, int64_t offset) const {
  for (int64_t g = 0; g < n_kv_heads; ++g) {
    const float* x = values + g * head_dim;
    const int64_t row = g * kPageTokens + offset;
    if (type != CacheType::kFP8) {
      const DType t = type == CacheType::kF32 ? DType::kF32 : DType::kBF16;
      from_f32(t, x, half + row * head_dim * size_bytes(t), head_dim);
      continue;
    }
    const float scale = e4m3_scale(x, head_dim);
    quantize_e4m3(x, head_dim, scale, reinterpret_cast<uint8_t*>(half) + row * head_dim);
    std::memcpy(half + n_kv_heads * kPageTokens * head_dim + row * 4, &scale, 4);
  }
}

void GqaPageFormat::decode_half(const std::byte* half, int64_t head, int64_t offset,
                                float* out) const {
  const int64_t row = head * kPageTokens + offset;
  if (type != CacheType::kFP8) {
    const DType t = type == CacheType::kF32 ? DType::kF32 : DType::kBF16;
    to_f32(t, half + row * head_dim * size_bytes(t), out, head_dim);
    return;
  }
  float scale = 0;
  std::memcpy(&scale, half + n_kv_heads * kPageTokens * head_dim + row * 4, 4);
  dequantize_e4m3(reinterpret_cast<const uint8_t*>(half) + row * head_dim, head_dim, scale, out);
}

void GqaPageFormat::encode(const float* k, const float* v, std::byte* page, int64_t offset) const {
  encode_half(k, page, offset);
  encode_half(v, page + half_page_bytes(), offset);
}

void GqaPageFormat::decode_key(const std::byte* page, int64_t head, int64_t offset,
                               float* out) const {
  decode_half(page, head, offset, out);
}

void GqaPageFormat::decode_value(const std::byte* page, int64_t head, int64_t offset,
                                 float* out) const {
  decode_half(page + half_page_bytes(), head, offset, out);
}

}  // namespace dsr
