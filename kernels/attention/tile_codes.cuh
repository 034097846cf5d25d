// A tile of an fp8 cache (tensor/kv_format.h) on its way to a stage of tiled_attention.cuh: in
// registers while the tile before is multiplied, then as bf16 in shared memory.
#pragma once

#include "attention/mla_codes.cuh"
#include "attention/tiled_shape.cuh"
#include "common/e4m3.cuh"

namespace dsr::cuda {

// Where bf16: nothing.
template <typename Shape, bool = Shape::kFp8>
struct TileCodes {};

template <typename Shape>
struct TileCodes<Shape, true> {
  using T = Tiled<Shape>;
  static constexpr bool kMla = Shape::kValuesInKeys;
  static constexpr int kPieces = kMla ? 32 : Shape::kKeyWidth / 16;  // of 16 codes, of a row
  static constexpr int kRowsAtOnce = kTiledThreads / kPieces;
  static constexpr int kHalves = kMla ? 1 : 2;  // keys, values
  static constexpr int kLoads = Shape::kTile / kRowsAtOnce;
  static_assert(Shape::kTile % kRowsAtOnce == 0);
  static_assert(!kMla || Shape::kTile * MlaCodes::kRopePieces == kTiledThreads);

  uint4 codes[kHalves][kLoads], rope;
  float scales[kHalves][kLoads];

  // Tokens base .. base + kTile, zeros past the end.
  __device__ __forceinline__ void load(const TiledParams& p, const TiledWork& w, int base) {
    const int32_t* table = p.batch.block_table + w.sequence * p.batch.block_table_stride;
    const int in_page = base % static_cast<int>(kPageTokens), n = w.end - base;
    const std::byte* page = p.pages + table[base / static_cast<int>(kPageTokens)] * p.page_bytes;
    const int tid = static_cast<int>(threadIdx.x), piece = tid % kPieces;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int r = tid / kPieces + i * kRowsAtOnce;
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        codes[half][i] = make_uint4(0, 0, 0, 0);
        scales[half][i] = 0;
        if (r >= n) continue;
        const std::byte *from, *scale;
        if constexpr (kMla) {
          from = page + (in_page + r) * MlaCodes::kRowBytes;
          scale = from + MlaCodes::kScalesAt + piece / 8 * 4;
        } else {
          const int row = w.kv_head * static_cast<int>(kPageTokens) + in_page + r;
          from = page + half * (p.page_bytes / 2);
          scale = from + p.scales_at + row * 4;
          from += row * Shape::kKeyWidth;
        }
        codes[half][i] = *reinterpret_cast<const uint4*>(from + piece * 16);
        scales[half][i] = *reinterpret_cast<const float*>(scale);
      }
    }
    if constexpr (kMla) {
      const int r = tid / MlaCodes::kRopePieces;
      rope = make_uint4(0, 0, 0, 0);
      if (r < n)
        rope =
            *reinterpret_cast<const uint4*>(page + (in_page + r) * MlaCodes::kRowBytes +
                                            MlaCodes::kRopeAt + tid % MlaCodes::kRopePieces * 16);
    }
  }

  // The stage is nobody's then.
  __device__ __forceinline__ void store(bf16* stage) const {
    const int tid = static_cast<int>(threadIdx.x), piece = tid % kPieces;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int r = tid / kPieces + i * kRowsAtOnce;
        uint4 v[2];
        bf16_from_e4m3(codes[half][i], scales[half][i], v);
        auto* to = reinterpret_cast<uint4*>(stage + half * T::kKeyElements + r * T::kKeyStride +
                                            piece * 16);
        to[0] = v[0], to[1] = v[1];
      }
    }
    if constexpr (kMla) {
      const int r = tid / MlaCodes::kRopePieces;
      *reinterpret_cast<uint4*>(stage + r * T::kKeyStride + Shape::kValueWidth +
                                tid % MlaCodes::kRopePieces * 8) = rope;
    }
  }
};

}  // namespace dsr::cuda
