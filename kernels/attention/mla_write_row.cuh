// One token's row of the MLA cache, by a block: what mla_write_kv and mla_query_and_write share.
// Definition: ops/mla.h.
#pragma once

#include "attention/rope.cuh"
#include "attention/write_kv.cuh"
#include "common/launch.h"
#include "common/ptx.cuh"
#include "common/rows.cuh"
#include "ops/mla.h"

namespace dsr::cuda {

constexpr int kMlaWriteThreads = 256;
constexpr int kMlaMaxWidth = 4096;

struct MlaWriteParams {
  const bf16* kv_a;  // [T, C + 2 * rope.half]
  int64_t kv_a_stride;
  const float* weight;  // [C]
  RopeRows rope;
  const int32_t* positions;
  const int64_t* slots;
  std::byte* pages;
  int64_t page_bytes;
  CacheType type;
  int C, row_bytes;
  float eps;
  bool by_warp;  // write_released_row
};

// What a latent is multiplied by, given the sums of each lane: of its neighbours in every even and
// in every odd 256 of the columns.
__device__ __forceinline__ float latent_scale(const MlaWriteParams& p, const float (&squares)[2],
                                              float one_over_C) {
  return rsqrtf(fmaf(warp_sum(squares[0] + squares[1]), one_over_C, p.eps));
}

// By one warp, without a barrier: rows of released models as bf16.
constexpr int kReleasedC = 512, kReleasedRope = 64;
__device__ __forceinline__ void write_released_row(const MlaWriteParams& p, int t) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t slot = p.slots[t], angle = int64_t{p.positions[t]} * (kReleasedRope / 2) + lane;
  const float cos = p.rope.cos[angle], sin = p.rope.sin[angle];
  constexpr int kChunks = kReleasedC / (32 * 8);  // of 8 neighbours, of a lane
  float weight[kChunks][8];
#pragma unroll
  for (int c = 0; c < kChunks; ++c) load_floats(p.weight + (c * 32 + lane) * 8, weight[c]);
  std::byte* to = p.pages + slot / kPageTokens * p.page_bytes + slot % kPageTokens * p.row_bytes;
  const bf16* from = p.kv_a + t * p.kv_a_stride;
  wait_for_previous_kernel();

  float v[kChunks][8], pair[2];
#pragma unroll
  for (int c = 0; c < kChunks; ++c) load_floats(from + (c * 32 + lane) * 8, v[c]);
  load_floats(from + kReleasedC + 2 * lane, pair);
  float squares[2] = {};
#pragma unroll
  for (int i = 0; i < 8; ++i)
#pragma unroll
    for (int c = 0; c < kChunks; ++c) squares[c] = fmaf(v[c][i], v[c][i], squares[c]);
  const float scale = latent_scale(p, squares, 1.0f / kReleasedC);
  const float turned[2] = {__fsub_rn(__fmul_rn(pair[0], cos), __fmul_rn(pair[1], sin)),
                           __fadd_rn(__fmul_rn(pair[1], cos), __fmul_rn(pair[0], sin))};
  auto* row = reinterpret_cast<bf16*>(to);
  store_floats(row + kReleasedC + 2 * lane, turned);
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
#pragma unroll
    for (int i = 0; i < 8; ++i) v[c][i] = v[c][i] * scale * weight[c][i];
    store_floats(row + (c * 32 + lane) * 8, v[c]);
  }
}

// Any row, by a block; `row` has room for it in float32. Both wait for the kernel before once they
// have touched what that one does not write: the batch (paged.cuh), weights, angles.
__device__ __forceinline__ void write_mla_row(const MlaWriteParams& p, int t, float* row) {
  constexpr int kThreads = kMlaWriteThreads, kWarps = kThreads / 32;
  constexpr int kEarly = 2;   // weights of a thread: all of them where C is 512
  constexpr int kAtOnce = 3;  // elements of a thread: all of them where the row has up to 768
  const int i0 = static_cast<int>(threadIdx.x);
  const int position = p.positions[t];
  const int64_t slot = p.slots[t];
  const int64_t angles = static_cast<int64_t>(position) * p.rope.half;
  float weight[kEarly];
#pragma unroll
  for (int k = 0; k < kEarly; ++k) {
    const int i = i0 + k * kThreads;
    weight[k] = i < p.C ? p.weight[i] : 0.0f;
  }
  const bool turns = i0 < p.rope.half;
  const float cos = turns ? p.rope.cos[angles + i0] : 0.0f;
  const float sin = turns ? p.rope.sin[angles + i0] : 0.0f;
  wait_for_previous_kernel();

  const int width = p.C + 2 * p.rope.half;
  const int warp = i0 / 32, lane = i0 % 32;
  const bf16* from = p.kv_a + t * p.kv_a_stride;
  for (int first = i0; first < width; first += kAtOnce * kThreads) {
    bf16 v[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k)
      if (const int i = first + k * kThreads; i < width) v[k] = from[i];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k)
      if (const int i = first + k * kThreads; i < width) row[i] = to_float(v[k]);
  }
  __syncthreads();
  // Every warp for itself, in the order of write_released_row.
  float squares[2] = {};
  for (int first = lane * 8; first < p.C; first += 2 * 32 * 8) {
#pragma unroll
    for (int k = 0; k < 2; ++k)
      for (int i = first + k * 32 * 8; i < min(first + k * 32 * 8 + 8, p.C); ++i)
        squares[k] = fmaf(row[i], row[i], squares[k]);
  }
  const float scale = latent_scale(p, squares, 1.0f / static_cast<float>(p.C));
  __syncthreads();  // all have read the row
#pragma unroll
  for (int k = 0; k < kEarly; ++k)
    if (const int i = i0 + k * kThreads; i < p.C) row[i] = row[i] * scale * weight[k];
  for (int i = i0 + kEarly * kThreads; i < p.C; i += kThreads)
    row[i] = row[i] * scale * p.weight[i];
  for (int i = i0; i < p.rope.half; i += kThreads) {
    const float c = i == i0 ? cos : p.rope.cos[angles + i];
    const float s = i == i0 ? sin : p.rope.sin[angles + i];
    float* pair = row + p.C + 2 * i;
    const float even = pair[0], odd = pair[1];
    pair[0] = __fsub_rn(__fmul_rn(even, c), __fmul_rn(odd, s));
    pair[1] = __fadd_rn(__fmul_rn(odd, c), __fmul_rn(even, s));
  }
  __syncthreads();

  std::byte* to = p.pages + slot / kPageTokens * p.page_bytes + slot % kPageTokens * p.row_bytes;
  if (p.type != CacheType::kFP8) {
    for (int i = i0; i < width; i += kThreads) {
      if (p.type == CacheType::kF32)
        reinterpret_cast<float*>(to)[i] = row[i];
      else
        reinterpret_cast<bf16*>(to)[i] = from_float<bf16>(row[i]);
    }
    return;
  }
  constexpr int kGroup = static_cast<int>(MlaRowFormat::kGroup);
  const int n_groups = (p.C + kGroup - 1) / kGroup;
  auto* scales = reinterpret_cast<float*>(to + (p.C + 3) / 4 * 4);
  for (int g = warp; g < n_groups; g += kWarps)
    store_quantized(row + g * kGroup, min(kGroup, p.C - g * kGroup), to + g * kGroup, scales + g,
                    lane);
  if (warp == kWarps - 1)
    store_values(row + p.C, 2 * p.rope.half, CacheType::kBF16,
                 reinterpret_cast<std::byte*>(scales + n_groups), lane);
}

inline MlaWriteParams mla_write_params(const MlaWriteKvArgs& a) {
  const MlaRowFormat& f = a.cache.format;
  if (f.kv_lora_rank + f.qk_rope_head_dim > kMlaMaxWidth)
    fail(ErrorKind::kDevice, "mla_write_kv: rows of ", f.kv_lora_rank + f.qk_rope_head_dim,
         " on CUDA, at most ", kMlaMaxWidth);
  const bool by_warp = f.type == CacheType::kBF16 && f.kv_lora_rank == kReleasedC &&
                       f.qk_rope_head_dim == kReleasedRope && rows_allow_16(a.kv_a) &&
                       reinterpret_cast<uintptr_t>(a.weight.data) % 16 == 0;
  return {.kv_a = a.kv_a.ptr<bf16>(),
          .kv_a_stride = a.kv_a.strides[0],
          .weight = a.weight.ptr<float>(),
          .rope = {a.rope.cos.ptr<float>(), a.rope.sin.ptr<float>(), narrow(a.rope.cos.shape[1])},
          .positions = a.positions.ptr<int32_t>(),
          .slots = a.slots.ptr<int64_t>(),
          .pages = a.cache.pages.ptr<std::byte>(),
          .page_bytes = f.page_bytes(),
          .type = f.type,
          .C = narrow(f.kv_lora_rank),
          .row_bytes = narrow(f.row_bytes()),
          .eps = a.eps,
          .by_warp = by_warp};
}

}  // namespace dsr::cuda
