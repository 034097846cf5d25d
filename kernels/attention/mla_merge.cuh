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
  float2* stats;  // [H, items], since a warp reads those of a head
  int H, n_items;

  __device__ float* sum(int item, int head) const {
    return sums + (int64_t{item} * H + head) * kMlaWidth;
  }
  __device__ float2* stat(int item, int head) const {
    return stats + int64_t{head} * n_items + item;
  }
};
inline MlaParts take_parts(Exec& exec, int64_t items, int64_t H) {
  return {exec.scratch().tensor(DType::kF32, {items, H, kMlaWidth}).ptr<float>(),
          exec.scratch().tensor(DType::kF32, {H, items, 2}).ptr<float2>(), narrow(H),
          narrow(items)};
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
  float weight[kMlaParts], weighted_sum[kMlaParts];  // by item
  float warp_max[kMlaMergeWarps];
  float group_sum[kMlaGroups];
  int token, first_item, n_items, group_items, n_groups;
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
  m.n_groups = pieces(items.count, m.group_items);
}

// All threads; the values are on their way meanwhile. Groups that there are not have sum 0.
__device__ __forceinline__ void weigh_items(const MlaParts& p, int head, MlaMergeMemory& m) {
  const int i = static_cast<int>(threadIdx.x);
  const float2 stat = i < m.n_items ? *p.stat(m.first_item + i, head) : make_float2(-INFINITY, 0);
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

// Sums over the groups' items of kMlaSlice columns, and of exp2.
struct MlaGroupSums {
  alignas(16) float columns[kMlaGroups][kMlaSlice];
  alignas(16) float all[kMlaGroups];
};

// What a thread adds up of them: four columns in one group. Made before the kernel before has
// ended.
struct MlaSlice {
  const float* values;       // of the group's first item
  const float2 *stat, *max;  // of the item that this lane weighs; of item `lane`
  int n, n_items, n_groups;  // items of the group; of the row

  __device__ __forceinline__ MlaSlice(const MlaParts& p, int head, int column0,
                                      const MlaMergeMemory& m, MlaGroupSums& groups)
      : n_items(m.n_items), n_groups(m.n_groups) {
    const unsigned i = threadIdx.x, group = i / 16, place = i % 16;
    const int first = static_cast<int>(group) * m.group_items;
    n = min(m.group_items, n_items - first);
    values = p.sum(m.first_item + first, head) + column0 + place * 4;
    stat = p.stat(m.first_item + first, head) + place;
    max = p.stat(m.first_item, head) + i % 32;
    asm volatile("" : "+l"(values), "+l"(stat), "+l"(max));  // not put together anew for each load
    *reinterpret_cast<float4*>(&groups.columns[group][place * 4]) = make_float4(0, 0, 0, 0);
    if (place == 0) groups.all[group] = 0;
  }
};

// Lane i of every warp gets the result of columns 2 i and 2 i + 1. Warps meet only to add up the
// groups: each looks for the largest of all items, and half of it weighs those of a group, a lane
// an item.
__device__ __forceinline__ uint32_t merge_slice(const MlaSlice& from, int H, MlaGroupSums& groups) {
  static_assert(kMlaMergeThreads == kMlaGroups * 16 && kMlaGroupParts <= 16);
  const unsigned i = threadIdx.x, lane = i % 32, group = i / 16, place = i % 16;
  if (__any_sync(0xffffffffu, from.n > 0)) {
    float2 stat = {-INFINITY, 0};
    if (static_cast<int>(place) < from.n) stat = __ldcg(from.stat);
    float item_max[(kMlaParts + 31) / 32];
#pragma unroll
    for (int k = 0; k < kMlaParts; k += 32) {
      item_max[k / 32] = -INFINITY;
      if (static_cast<int>(lane) < from.n_items - k) item_max[k / 32] = __ldcg(&from.max[k].x);
    }
    float4 v[kMlaGroupParts];
#pragma unroll
    for (int k = 0; k < kMlaGroupParts; ++k) {
      v[k] = {0, 0, 0, 0};
      if (k < from.n)
        v[k] = __ldcg(reinterpret_cast<const float4*>(from.values + k * H * kMlaWidth));
    }
    asm volatile("" ::: "memory");  // all loads are on their way before the first is used
    float max = -INFINITY;
#pragma unroll
    for (float other : item_max) max = fmaxf(max, other);
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
      max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, offset));
    const float my_weight = power_of_two(stat.x - max), my_sum = my_weight * stat.y;
    float4 sum = {0, 0, 0, 0};
    float all = 0;
#pragma unroll
    for (int k = 0; k < kMlaGroupParts; ++k) {  // past the end of the group weights are 0
      const float weight = __shfl_sync(0xffffffffu, my_weight, k, 16);
      sum.x += weight * v[k].x;
      sum.y += weight * v[k].y;
      sum.z += weight * v[k].z;
      sum.w += weight * v[k].w;
      all += __shfl_sync(0xffffffffu, my_sum, k, 16);
    }
    *reinterpret_cast<float4*>(&groups.columns[group][place * 4]) = sum;
    if (place == 0) groups.all[group] = all;
  }
  __syncthreads();
  float2 total = {0, 0};
  float all = 0;
  constexpr int kAtOnce = 4;  // those that there are not are 0
  static_assert(kMlaGroups % kAtOnce == 0);
#pragma unroll 1
  for (int first = 0; first < from.n_groups; first += kAtOnce) {
    const float4 sums = *reinterpret_cast<const float4*>(&groups.all[first]);
    float2 v[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k)
      v[k] = *reinterpret_cast<const float2*>(&groups.columns[first + k][lane * 2]);
#pragma unroll
    for (const float2& group_sum : v) total.x += group_sum.x, total.y += group_sum.y;
    all += sums.x;
    all += sums.y;
    all += sums.z;
    all += sums.w;
  }
  const float scale = 1 / all;
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
__global__ __launch_bounds__(kMlaMergeThreads, 4) void mla_merge_kernel(
    bf16* __restrict__ out, int64_t out_token_stride, int64_t out_head_stride,  // [T, H, kMlaWidth]
    const __grid_constant__ MlaParts p, const __grid_constant__ DecodeRows rows) {
#if __CUDA_ARCH__ >= 900
  __shared__ MlaMergeMemory m;
  const int head = static_cast<int>(blockIdx.y), r = static_cast<int>(blockIdx.z);
  if (threadIdx.x < 32) find_items(rows, r, m);
  __syncthreads();
  const int column = static_cast<int>(blockIdx.x) * kMergeColumns;
  bf16* to = out + m.token * out_token_stride + head * out_head_stride + column;
  if constexpr (kMergeColumns == kMlaWidth) {
    wait_for_previous_kernel();
    if (m.n_items > 1) merge_row(to, p.sum(m.first_item, head), p.H * kMlaWidth, p, head, m);
  } else {
    __shared__ MlaGroupSums groups;
    const MlaSlice slice(p, head, column, m, groups);
    wait_for_previous_kernel();
    if (m.n_items <= 1) return;
    const uint32_t pair = merge_slice(slice, p.H, groups);
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
