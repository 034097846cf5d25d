// Rows of an fp8 cache of MLA (tensor/kv_format.h), for released models.
#pragma once

#include "attention/tiled_shape.cuh"

namespace dsr::cuda {

// A row of MLA: 32 pieces of 16 codes, of which a warp takes one row's; four scales; 8 pieces of
// the key's rotated part.
struct MlaCodes {
  static constexpr int kScalesAt = MlaShape::kValueWidth, kRopeAt = kScalesAt + 16;
  static constexpr int kRopePieces = (MlaShape::kKeyWidth - MlaShape::kValueWidth) / 8;
  static constexpr int kRowBytes = kRopeAt + kRopePieces * 16;
  static_assert(MlaShape::kValueWidth == 32 * 16 && MlaRowFormat::kGroup == 8 * 16);
};

}  // namespace dsr::cuda
