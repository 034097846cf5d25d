// The norm of one row, as rms_norm.cu and the gate of a mixture layer do it: with the same sums in
// the same order, so that they give the same bits.
//
// 256 threads hold the row: chunk c of a thread is the kWidth values from
// (256 c + thread) * kWidth. A thread adds the squares of its own values in order, a warp its
// threads, the block its warps.
#pragma once

#include "common/launch.h"
#include "common/rows.cuh"
#include "ops/rms_norm.h"

namespace dsr::cuda {

inline constexpr int kNormThreads = 256;
inline constexpr int kNormPerThread = 64;  // values of a row that a thread may hold
inline constexpr int64_t kMaxNormWidth = kNormThreads * kNormPerThread;

struct NormParams {
  bf16* out;       // [T, D]; may alias x
  bf16* residual;  // [T, D], or null: plain rms_norm
  const bf16* x;   // [T, D]
  const float* weight;
  int64_t out_stride, residual_stride, x_stride;
  int D;
  float eps;
};

// kEarlyWeights: fetch_weights() keeps them in registers.
template <int kWidth, int kChunks, bool kEarlyWeights>
class NormRow {
 public:
  static_assert(kWidth * kChunks <= kNormPerThread, "the row stays in registers");

  // Before the kernel before has ended.
  __device__ __forceinline__ void fetch_weights(const NormParams& p) {
    if constexpr (kEarlyWeights) {
      for_each_chunk(p.D, [&](int c, int at) {
#pragma unroll
        for (int j = 0; j < kWidth; ++j) weight_[c][j] = p.weight[at + j];
      });
    }
  }
  // Reads row t, with the residual added; this thread's sum of squares.
  __device__ __forceinline__ float load(const NormParams& p, int64_t t) {
    // All loads are on their way before the first is used.
    Chunk x[kChunks], r[kChunks];
    const bool has_residual = p.residual != nullptr;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int at = place(c);
      if (at < p.D) x[c] = load_chunk(p.x + t * p.x_stride + at);
      if (at < p.D && has_residual) r[c] = load_chunk(p.residual + t * p.residual_stride + at);
    }
    float sum = 0;
    for_each_chunk(p.D, [&](int c, int) {
#pragma unroll
      for (int j = 0; j < kWidth; ++j) {
        v_[c][j] = to_float(x[c].v[j]);
        if (has_residual) v_[c][j] = to_float(from_float<bf16>(to_float(r[c].v[j]) + v_[c][j]));
      }
#pragma unroll
      for (int j = 0; j < kWidth; ++j) sum += v_[c][j] * v_[c][j];
    });
    return sum;
  }
  // What the residual is now.
  __device__ __forceinline__ void store_sum(int D, bf16* to) const {
    for_each_chunk(D, [&](int c, int at) { store_floats(to + at, v_[c]); });  // exact
  }
  // squares: of all threads.
  __device__ __forceinline__ void store_normed(const NormParams& p, float squares, bf16* to) const {
    const float scale = 1.0f / sqrtf(squares / static_cast<float>(p.D) + p.eps);
    for_each_chunk(p.D, [&](int c, int at) {
      float y[kWidth];
#pragma unroll
      for (int j = 0; j < kWidth; ++j)
        y[j] = v_[c][j] * scale *
               (kEarlyWeights ? weight_[kEarlyWeights ? c : 0][j] : p.weight[at + j]);
      store_floats(to + at, y);
    });
  }

 private:
  using Chunk = Packed<bf16, kWidth>;

  __device__ __forceinline__ static int place(int c) {
    return (c * kNormThreads + static_cast<int>(threadIdx.x)) * kWidth;
  }
  template <typename F>
  __device__ __forceinline__ static void for_each_chunk(int D, const F& f) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if (place(c) >= D) break;
      f(c, place(c));
    }
  }
  __device__ __forceinline__ static Chunk load_chunk(const bf16* p) {
    return *reinterpret_cast<const Chunk*>(p);
  }

  float v_[kChunks][kWidth];
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
