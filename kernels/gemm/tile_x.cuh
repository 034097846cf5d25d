// The activations of stream_tiles.cuh: how a block of a cluster gets all tokens' columns of its
// part of K into shared memory, as operands of wgmma.
//
// FP8: they become f16, in the same way as everywhere (half_operands.cuh). The order of columns is
// that of the weights in registers (weight_units.cuh), so 8 neighbouring columns of a token go to
// four places of 4 bytes.
#pragma once

#include "gemm/linear_kernels.h"
#include "gemm/stream_x.cuh"

namespace dsr::cuda {

// Of a cluster; and the slices of K that each of them has, one for each warpgroup that multiplies.
inline constexpr int kClusterBlocks = 4;
inline constexpr int kBlockSlices = 8 / kClusterBlocks;
static_assert(kBlockSlices * 4 == kStreamWarps, "the warps of a slice are a warpgroup");

// Blocks of 128 bytes of a row that are the part of a block of the cluster.
__host__ __device__ constexpr int blocks_of_part(int n_steps) {
  return (staged_blocks(n_steps) + 7) / 8 * kBlockSlices;
}

// The operands of a block's products are pairs of 32 columns; so far from one to the next, so that
// threads that store to both have different banks.
template <int kTiles>
inline constexpr int kTilePairBytes = 4 * kTiles * 128 + 64;
template <typename W, int kTiles>
inline constexpr int kTileBlockBytes = W::kProducts* kTilePairBytes<kTiles>;

#if __CUDA_ARCH__ >= 900

// The tokens of a cluster.
struct TokenRange {
  int first, n;
  __device__ int n_tiles() const { return (n + 7) / 8; }
};

// The activations of a block's part: of every block of weights the operands of its products,
// [W::kProducts pairs of 32 columns][4][kTiles][8 tokens][16 bytes] (warpgroup.cuh), and units
// (half_operands.cuh).
template <typename W, int kTiles>
struct TileX {
  std::byte* operands;  // [blocks_of_part]
  float* units;         // [blocks_of_part][kTiles * 8]

  __device__ TileX(std::byte* memory, int n_steps)
      : operands(memory),
        units(reinterpret_cast<float*>(memory +
                                       blocks_of_part(n_steps) * kTileBlockBytes<W, kTiles>)) {}
};

// A tile's activations of a block on their way there. A warp loads 4 tokens at a time, 8 lanes
// each, a line of memory in one instruction.
template <typename W, int kTiles>
class TileLoad {
 public:
  // Token i of the tile is at x + offset(i), where i goes to the last token.
  template <typename Offset>
  __device__ __forceinline__ void load(const std::byte* x, const Offset& offset, int step,
                                       int n_steps) {
    const int lane = static_cast<int>(threadIdx.x) % 32, chunk = lane % 8;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const auto* from = reinterpret_cast<const uint4*>(x + offset(half * 4 + lane / 8) +
                                                        step * (W::kStepColumns * 2));
#pragma unroll
      for (int i = 0; i < W::kXChunks; ++i) {
        const bool valid = step + (i * 8 + chunk) / (W::kStepColumns / 8) < n_steps;
        v_[half][i] = valid ? from[i * 8 + chunk] : make_uint4(0, 0, 0, 0);
      }
    }
  }
  __device__ __forceinline__ void store(const TileX<W, kTiles>& to, int block, int tile) {
    const int lane = static_cast<int>(threadIdx.x) % 32, token = lane / 8, chunk = lane % 8;
    // Where in a step the chunk is in weight_units.cuh: in which pair, and whose of a quad.
    const int pair = W::kScaled ? chunk % 2 : chunk / 4, t = W::kScaled ? chunk / 2 : chunk % 4;
    auto* at = reinterpret_cast<uint32_t*>(to.operands + block * kTileBlockBytes<W, kTiles> +
                                           pair * kTilePairBytes<kTiles> + tile * 128 + token * 16 +
                                           t * 4);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if constexpr (W::kScaled) {
        const HalfUnit unit = make_operands(half);
        if (chunk == 0) to.units[(block * kTiles + tile) * 8 + half * 4 + token] = unit.value();
      }
#pragma unroll
      for (int i = 0; i < W::kXChunks; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          at[(i * 2 * kTilePairBytes<kTiles> + j * kTiles * 128 + half * 64) / 4] =
              word_of(v_[half][i], j);
    }
  }

 private:
  __device__ __forceinline__ HalfUnit make_operands(int half) {
    uint32_t largest = 0;
#pragma unroll
    for (int i = 0; i < W::kXChunks; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) largest = HalfUnit::larger(largest, word_of(v_[half][i], j));
    const HalfUnit unit = HalfUnit::of<8>(largest);
#pragma unroll
    for (int i = 0; i < W::kXChunks; ++i) {
      uint4& v = v_[half][i];
      v = make_uint4(unit.quotients(v.x), unit.quotients(v.y), unit.quotients(v.z),
                     unit.quotients(v.w));
    }
    return unit;
  }

  uint4 v_[2][W::kXChunks];
};

// By all warps that multiply: a warp takes a tile and a block at a time, several at once. Clusters
// begin in different places, so that they do not all want the same line of the L2.
template <typename W, int kTiles>
__device__ __forceinline__ void stage_tiles(const DenseProduct& p, const TokenRange& tokens,
                                            const TileX<W, kTiles>& to, int rank) {
  constexpr int kAtOnce = kTiles == 8 ? 4 : 2;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int n_steps = p.w.layout.n_steps, n_tiles = tokens.n_tiles();
  const int n = blocks_of_part(n_steps) * n_tiles;
  const int cluster = static_cast<int>(blockIdx.x) / kClusterBlocks;
  const int begin = cluster % 8 * n / 8;
#pragma unroll 1
  for (int first = warp; first < n; first += kAtOnce * kStreamWarps) {
    TileLoad<W, kTiles> x[kAtOnce];
    int block[kAtOnce], tile[kAtOnce];
    bool there[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const int i = first + k * kStreamWarps, at = begin + i < n ? begin + i : begin + i - n;
      block[k] = at / n_tiles, tile[k] = at % n_tiles;
      const int step =
          2 * (block[k] / kBlockSlices * 8 + rank * kBlockSlices + block[k] % kBlockSlices);
      there[k] = i < n && step < n_steps;
      if (!there[k]) continue;
      x[k].load(
          p.x,
          [&](int token) {
            return (tokens.first + min(tile[k] * 8 + token, tokens.n - 1)) * p.x_stride_bytes;
          },
          step, n_steps);
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k)
      if (there[k]) x[k].store(to, block[k], tile[k]);
  }
}

#endif

}  // namespace dsr::cuda
