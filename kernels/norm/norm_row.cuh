// The norm of one row, as rms_norm.cu and the gate of a mixture layer do it: with the same sums in
// the same order, so that they give the same bits.
//
// 256 threads hold the row in chunks of kWidth values. In chunks of 8 warp w has the blocks
// w, w + 8, ... of 64 columns, as a warp that multiplies has them (stream.cuh): chunk c of its
// lanes is four of these. A thread adds the squares of its own values, even and odd ones apart, a
// warp its threads, the block its warps.
#pragma once

#include "common/launch.h"
#include "common/rows.cuh"
#include "ops/rms_norm.h"

namespace dsr::cuda {

inline constexpr int kNormThreads = 256, kNormWarps = kNormThreads / 32;
inline constexpr int kNormPerThread = 64;  // values of a row that a thread may hold
inline constexpr int64_t kMaxNormWidth = kNormThreads * kNormPerThread;

struct NormParams {
  bf16* out;       // [T, D]; may alias x
  bf16* residual;  // [T, D], or null: plain rms_norm
  const bf16* x;   // [T, D]
  const float* weight;
  int64_t out_stride, residual_stride, x_stride;
  int D;
  float one_over_D, eps;
};

// The sum of all threads' squares, the same in all. `shared` holds a float for each warp, which
// nobody reads any more.
__device__ __forceinline__ float sum_of_squares(float mine, float* shared) {
  mine = warp_sum(mine);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = mine;
  __syncthreads();
  float sum = shared[0];
#pragma unroll
  for (int w = 1; w < kNormWarps; ++w) sum += shared[w];
  return sum;
}

// kEarlyWeights: fetch_weights() keeps them in registers.
template <int kWidth, int kChunks, bool kEarlyWeights>
class NormRow {
 public:
  static_assert(kWidth == 8 || kWidth == 1, "16 bytes, or single elements");
  static_assert(kWidth * kChunks <= kNormPerThread, "the row stays in registers");
  static constexpr int kPairs = (kWidth + 1) / 2;
  // Pairs of bf16, as they lie in memory; a single element is a low half.
  struct Chunk {
    uint32_t pairs[kPairs];
  };

  // Before the kernel before has ended.
  __device__ __forceinline__ void fetch_weights(const NormParams& p) {
    if constexpr (kEarlyWeights) {
#pragma unroll
      for (int c = 0; c < kChunks; ++c)
#pragma unroll
        for (int j = 0; j < kWidth; ++j)
          weight_[c][j] = place(c) < p.D ? p.weight[place(c) + j] : 0;
    }
  }
  // Reads row t, with the residual added; this thread's sum of squares.
  __device__ __forceinline__ float load(const NormParams& p, int64_t t) {
    // All loads are on their way before the first is used.
    Chunk x[kChunks] = {}, r[kChunks] = {};
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const bool valid = place(c) < p.D;
      if (valid) x[c] = load_chunk(p.x + t * p.x_stride + place(c));
      if (valid && p.residual != nullptr)
        r[c] = load_chunk(p.residual + t * p.residual_stride + place(c));
    }
    float squares[2] = {};
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        const uint32_t sum = pack_bf16(low_bf16(x[c].pairs[j]) + low_bf16(r[c].pairs[j]),
                                       high_bf16(x[c].pairs[j]) + high_bf16(r[c].pairs[j]));
        sum_[c].pairs[j] = sum;
        squares[0] = fmaf(low_bf16(sum), low_bf16(sum), squares[0]);
        squares[1] = fmaf(high_bf16(sum), high_bf16(sum), squares[1]);
      }
    }
    return squares[0] + squares[1];
  }
  // What the residual is now.
  __device__ __forceinline__ const Chunk& sum(int c) const { return sum_[c]; }
  // Chunk c, given scale(); zeros past the end of the row.
  __device__ __forceinline__ Chunk normed(const NormParams& p, float scale, int c) const {
    Chunk out;
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const uint32_t v = sum_[c].pairs[j];
      const float low = low_bf16(v) * scale * weight(p, c, 2 * j);
      out.pairs[j] = kWidth == 1 ? pack_bf16(low, 0)
                                 : pack_bf16(low, high_bf16(v) * scale * weight(p, c, 2 * j + 1));
    }
    return out;
  }
  // squares: of all threads.
  __device__ __forceinline__ static float scale(const NormParams& p, float squares) {
    return rsqrtf(fmaf(squares, p.one_over_D, p.eps));
  }
  __device__ __forceinline__ static void store(const NormParams& p, const Chunk& v, int c,
                                               bf16* row) {
    if (place(c) >= p.D) return;
    if constexpr (kWidth == 8)
      *reinterpret_cast<uint4*>(row + place(c)) =
          make_uint4(v.pairs[0], v.pairs[1], v.pairs[2], v.pairs[3]);
    else
      row[place(c)] = __ushort_as_bfloat16(static_cast<unsigned short>(v.pairs[0]));
  }

 private:
  // Where chunk c of this thread begins.
  __device__ __forceinline__ static int place(int c) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const unsigned at =
        kWidth == 8
            ? ((static_cast<unsigned>(c) * 4 + lane / 8) * kNormWarps + warp) * 64 + lane % 8 * 8
            : static_cast<unsigned>(c) * kNormThreads + threadIdx.x;
    return static_cast<int>(at);
  }
  __device__ __forceinline__ static Chunk load_chunk(const bf16* p) {
    if constexpr (kWidth == 8) {
      const uint4 v = *reinterpret_cast<const uint4*>(p);
      return {{v.x, v.y, v.z, v.w}};
    } else {
      return {{*reinterpret_cast<const uint16_t*>(p)}};
    }
  }
  // Of value j of a chunk.
  __device__ __forceinline__ float weight(const NormParams& p, int c, int j) const {
    if constexpr (kEarlyWeights) return weight_[c][j];
    return place(c) < p.D ? p.weight[place(c) + j] : 0;
  }

  Chunk sum_[kChunks];
  float weight_[kEarlyWeights ? kChunks : 1][kWidth];
};

inline NormParams norm_params(const RmsNormArgs& a) {
  return {.out = a.out.ptr<bf16>(),
          .residual = nullptr,
          .x = a.x.ptr<bf16>(),
          .weight = a.weight.ptr<float>(),
          .out_stride = a.out.strides[0],
          .residual_stride = 0,
          .x_stride = a.x.strides[0],
          .D = narrow(a.x.shape[1]),
          .one_over_D = 1.0f / static_cast<float>(a.x.shape[1]),
          .eps = a.eps};
}
inline NormParams norm_params(const AddRmsNormArgs& a) {
  NormParams out =
      norm_params(RmsNormArgs{.out = a.out, .x = a.x, .weight = a.weight, .eps = a.eps});
  out.residual = a.residual.ptr<bf16>();
  out.residual_stride = a.residual.strides[0];
  return out;
}

// Whether rows can be read and written in chunks of 16 bytes.
inline bool norm_is_wide(const AddRmsNormArgs& a) {
  return rows_allow_16(a.x) && rows_allow_16(a.out) && rows_allow_16(a.residual);
}

}  // namespace dsr::cuda
