// One token's row of the MLA cache in each of its formats (tensor/kv_format.h).
#pragma once

#include "common/types.cuh"
#include "tensor/kv_format.h"

namespace dsr::cuda {

struct MlaRows {
  CacheType type;
  int C, rope, row_bytes;

  struct Row {
    CacheType type;
    int C;
    const std::byte* data;
    const std::byte* scales;  // of e4m3 latents; behind them the key

    __device__ float value(int i) const {
      if (type == CacheType::kF32) return reinterpret_cast<const float*>(data)[i];
      if (type == CacheType::kBF16) return to_float(reinterpret_cast<const bf16*>(data)[i]);
      constexpr int kGroup = static_cast<int>(MlaRowFormat::kGroup);
      return to_float(reinterpret_cast<const e4m3*>(data)[i]) *
             reinterpret_cast<const float*>(scales)[i / kGroup];
    }
    __device__ float key(int i) const {
      if (type != CacheType::kFP8 || i < C) return value(i);
      constexpr int kGroup = static_cast<int>(MlaRowFormat::kGroup);
      const int n_groups = (C + kGroup - 1) / kGroup;
      return to_float(reinterpret_cast<const bf16*>(scales + 4 * n_groups)[i - C]);
    }
  };
  __device__ Row row(const std::byte* page, int, int in_page) const {
    const std::byte* data = page + in_page * row_bytes;
    return {type, C, data, data + (C + 3) / 4 * 4};
  }
  __device__ void rotate(float*, int) const {}  // mla_query did
};

}  // namespace dsr::cuda
