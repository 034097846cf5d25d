// The sum of what the blocks of mla_decode_sm90.cu stored. Order and rounding: mla_split.cuh.
//
// Mapping   a block per row, head and kMergeColumns columns: few rows are spread over all SMs, many
//           are not cut.
#pragma once

#include "attention/mla_split.cuh"

namespace dsr::cuda {

// Items of the rows that have several: sums of exp2(score - max) v, and per head {max, sum of
// exp2}.
constexpr int kMlaWidth = 512;
struct MlaParts {
  float* sums;    // [items, H, kMlaWidth]
  float2* stats;  // [items, H]
  int H;

  __device__ int64_t at(int item, int head) const { return int64_t{item} * H + head; }
};
inline MlaParts take_parts(Exec& exec, int64_t items, int64_t H) {
  return {exec.scratch().tensor(DType::kF32, {items, H, kMlaWidth}).ptr<float>(),
          exec.scratch().tensor(DType::kF32, {items, H, 2}).ptr<float2>(), narrow(H)};
}

// 2^d for a whole d <= 0: exact, and 0 where it is below the normal numbers.
__device__ __forceinline__ float power_of_two(float d) {
  return d < -126 ? 0 : __int_as_float((static_cast<int>(d) + 127) << 23);
}

constexpr int kMlaSlice = 64;  // columns of a block, where few rows are spread over all SMs
constexpr int kMlaMergeThreads = 256, kMlaMergeWarps = kMlaMergeThreads / 32;
static_assert(kMlaMergeThreads >= kMlaParts, "one thread weighs one item");

#if __CUDA_ARCH__ >= 900

struct MlaMergeMemory {
  float2 stats[kMlaMergeThreads];                    // by item; of those that there are not 0
  float weight[kMlaParts], weighted_sum[kMlaParts];  // by item
  float warp_max[kMlaMergeWarps];
  float group_sum[kMlaGroups];
  int token, first_item, n_items, group_items;
};

// The items of row r; by one warp, before the kernel before has ended.
__device__ __forceinline__ void find_items(const DecodeRows& rows, int r, MlaMergeMemory& m) {
  const int lane = static_cast<int>(threadIdx.x) % 32, total = total_pages(rows, lane);
  const int first_item = items_before(rows, r, total, lane);
  const DecodeRow row = decode_row(rows, r);
  const RowSplit split(row.n);
  const RowItems items(split, total, rows.n_blocks);
  if (lane != 0) return;
  m.token = row.token, m.first_item = first_item, m.n_items = items.count;
  m.group_items = items.groups ? 1 : split.group_parts;
}

// All threads; the values are on their way meanwhile. Groups that there are not have sum 0.
__device__ __forceinline__ void weigh_items(const MlaParts& p, int head, MlaMergeMemory& m) {
  const int i = static_cast<int>(threadIdx.x);
  const float2 stat =
      i < m.n_items ? p.stats[p.at(m.first_item + i, head)] : make_float2(-INFINITY, 0);
  float max = stat.x;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, offset));
  if (i % 32 == 0) m.warp_max[i / 32] = max;
  __syncthreads();
  for (float other : m.warp_max) max = fmaxf(max, other);
  if (i < m.n_items) {
    const float weight = power_of_two(stat.x - max);
    m.weight[i] = weight;
    m.weighted_sum[i] = weight * stat.y;
  }
  __syncthreads();
  if (i < kMlaGroups) {
    const int first = i * m.group_items, n = min(m.group_items, m.n_items - first);
    float sum = 0;
#pragma unroll
    for (int k = 0; k < kMlaGroupParts; ++k)
      if (k < n) sum += m.weighted_sum[first + k];
    m.group_sum[i] = sum;
  }
}
// After a barrier.
__device__ __forceinline__ float merged_scale(const MlaMergeMemory& m) {
  float sum = 0;
#pragma unroll
  for (float group : m.group_sum) sum += group;
  return 1 / sum;
}

// What a thread adds up of kMlaSlice columns: four of them in one group. Made before the kernel
// before has ended.
struct MlaSlice {
  const float* values;  // of the group's first item
  const float2* stat;   // of the item that this thread weighs
  int first, n;         // items of the group

  __device__ __forceinline__ MlaSlice(const MlaParts& p, int head, int column0,
                                      const MlaMergeMemory& m) {
    const int i = static_cast<int>(threadIdx.x);
    first = i / 16 * m.group_items, n = min(m.group_items, m.n_items - first);
    values = p.sums + p.at(m.first_item + first, head) * kMlaWidth + column0 + i % 16 * 4;
    stat = p.stats + p.at(m.first_item + i, head);
    asm volatile("" : "+l"(values), "+l"(stat));  // not put together anew for each load
  }
};

// Lane i of every warp gets the result of columns 2 i and 2 i + 1. Every thread weighs the items of
// its group for itself: that takes one barrier less.
__device__ __forceinline__ uint32_t merge_slice(const MlaSlice& from, int next, MlaMergeMemory& m) {
  __shared__ alignas(16) float groups[kMlaGroups][kMlaSlice];
  static_assert(kMlaMergeThreads == kMlaGroups * 16);
  static_assert(kMlaGroups * kMlaGroupParts <= kMlaMergeThreads, "all have a place in m.stats");
  const int i = static_cast<int>(threadIdx.x), g = i / 16, column = i % 16 * 4, lane = i % 32;
  float2 stat = {-INFINITY, 0};
  if (i < m.n_items) stat = __ldcg(from.stat);
  float4 v[kMlaGroupParts];
#pragma unroll
  for (int k = 0; k < kMlaGroupParts; ++k) {
    v[k] = {0, 0, 0, 0};
    if (k < from.n) v[k] = __ldcg(reinterpret_cast<const float4*>(from.values + k * next));
  }
  m.stats[i] = stat;
  __syncthreads();
  float max = -INFINITY;
#pragma unroll
  for (int k = 0; k < kMlaParts; k += 32) max = fmaxf(max, m.stats[k + lane].x);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, offset));
  float4 sum = {0, 0, 0, 0};
  float group_sum = 0;
#pragma unroll
  for (int k = 0; k < kMlaGroupParts; ++k) {
    const float2 part = m.stats[from.first + k];
    const float weight = power_of_two(part.x - max);
    sum.x += weight * v[k].x;
    sum.y += weight * v[k].y;
    sum.z += weight * v[k].z;
    sum.w += weight * v[k].w;
    group_sum += k < from.n ? weight * part.y : 0;
  }
  *reinterpret_cast<float4*>(&groups[g][column]) = sum;
  if (column == 0) m.group_sum[g] = group_sum;
  __syncthreads();
  float2 total = {0, 0};
#pragma unroll
  for (int k = 0; k < kMlaGroups; ++k) {
    const float2 group = *reinterpret_cast<const float2*>(&groups[k][lane * 2]);
    total.x += group.x;
    total.y += group.y;
  }
  const float scale = merged_scale(m);
  return pack_bf16(total.x * scale, total.y * scale);
}

// All columns: a thread has two of them.
__device__ __forceinline__ void merge_row(bf16* out, const float* sums, int next, const MlaParts& p,
                                          int head, MlaMergeMemory& m) {
  static_assert(kMlaWidth == 2 * kMlaMergeThreads);
  constexpr int kAtOnce = 8;
  const int i = static_cast<int>(threadIdx.x);
  const float* from = sums + 2 * i;
  float2 v[kAtOnce];
  const auto load = [&](int first) {
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k)
      if (first + k < m.n_items) v[k] = *reinterpret_cast<const float2*>(from + (first + k) * next);
  };
  load(0);
  weigh_items(p, head, m);
  float2 total = {0, 0}, sum = {0, 0};
  int left = m.group_items;  // of the group
  for (int first = 0; first < m.n_items; first += kAtOnce) {
    if (first > 0) load(first);
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (first + k >= m.n_items) break;
      const float weight = m.weight[first + k];
      sum.x += weight * v[k].x;
      sum.y += weight * v[k].y;
      if (--left > 0) continue;
      left = m.group_items;
      total.x += sum.x, total.y += sum.y;
      sum = {0, 0};
    }
  }
  total.x += sum.x, total.y += sum.y;
  __syncthreads();  // the groups' sums
  const float scale = merged_scale(m);
  reinterpret_cast<uint32_t*>(out)[i] = pack_bf16(total.x * scale, total.y * scale);
}

#endif

template <int kMergeColumns>
__global__ __launch_bounds__(kMlaMergeThreads) void mla_merge_kernel(
    bf16* __restrict__ out, int64_t out_token_stride, int64_t out_head_stride,  // [T, H, kMlaWidth]
    const __grid_constant__ MlaParts p, const __grid_constant__ DecodeRows rows) {
#if __CUDA_ARCH__ >= 900
  __shared__ MlaMergeMemory m;
  const int head = static_cast<int>(blockIdx.y), r = static_cast<int>(blockIdx.z);
  if (threadIdx.x < 32) find_items(rows, r, m);
  __syncthreads();
  const int column = static_cast<int>(blockIdx.x) * kMergeColumns, next = p.H * kMlaWidth;
  bf16* to = out + m.token * out_token_stride + head * out_head_stride + column;
  if constexpr (kMergeColumns == kMlaWidth) {
    wait_for_previous_kernel();
    if (m.n_items > 1)
      merge_row(to, p.sums + p.at(m.first_item, head) * kMlaWidth, next, p, head, m);
  } else {
    const MlaSlice slice(p, head, column, m);
    wait_for_previous_kernel();
    if (m.n_items <= 1) return;
    const uint32_t pair = merge_slice(slice, next, m);
    if (threadIdx.x < 32) reinterpret_cast<uint32_t*>(to)[threadIdx.x] = pair;
  }
#endif
}

template <int kMergeColumns>
void run_mla_merge(Exec& exec, const Tensor& out, const DecodeRows& rows, const MlaParts& p) {
  launch(exec, "mla_attention: merge",
         {.grid = dim3(kMlaWidth / kMergeColumns, static_cast<unsigned>(p.H),
                       static_cast<unsigned>(rows.n_rows)),
          .threads = kMlaMergeThreads},
         mla_merge_kernel<kMergeColumns>, out.ptr<bf16>(), out.strides[0], out.strides[1], p, rows);
}
inline void merge_mla(Exec& exec, const Tensor& out, const DecodeRows& rows, const MlaParts& p) {
  constexpr int kEnough = 128;  // blocks
  rows.n_rows* p.H < kEnough ? run_mla_merge<kMlaSlice>(exec, out, rows, p)
                             : run_mla_merge<kMlaWidth>(exec, out, rows, p);
}

}  // namespace dsr::cuda
