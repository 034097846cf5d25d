// What the fast weight-reading kernels share: which rows a unit is, and how 64 bytes of 16 rows
// become fragments of m16n8k16.
//
// In a step thread t of a quad holds 16 contiguous bytes, at 16 t, of row g (g = lane / 4) and of
// row g + 8. Word j of them is its share of product j: a product may take the columns in any order
// as long as activations come in the same one, and in this one a thread needs its activations from
// one contiguous piece as well: e4m3: 16 of them at 64 s + 16 t; bf16: 8 at 32 s + 8 t.
#pragma once

#include <type_traits>

#include "common/e4m3.cuh"
#include "common/ptx.cuh"
#include "gemm/dense_weight.h"

namespace dsr::cuda {

// 16 bytes of weights that are read in order, or zeros where `valid` is false: the L2 fetches what
// comes next as well, and lets go of both first where they are read once.
template <bool kOnce = true>
__device__ __forceinline__ void stream_async_16(uint32_t shared, const void* global,
                                                bool valid = true) {
  const int bytes = valid ? 16 : 0;
  if constexpr (kOnce)
    asm volatile(
        "cp.async.cg.shared.global.L2::cache_hint.L2::256B [%0], [%1], 16, %2, %3;" ::"r"(shared),
        "l"(global), "r"(bytes), "l"(evict_first())
        : "memory");
  else
    asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(shared),
                 "l"(global), "r"(bytes)
                 : "memory");
}
// 4 bytes, both sides aligned to 4.
__device__ __forceinline__ void copy_async_4(void* shared, const void* global) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(shared)), "l"(global)
               : "memory");
}
// e4m3 codes, block scales applied in float32 on the sums of a step.
struct Fp8Weight {
  static constexpr bool kScaled = true;
  static constexpr int kStepColumns = 64;
  static constexpr int kProducts = 4;  // m16n8k16 in a step
  static constexpr int kXChunks = 2;   // of 16 bytes of activations per thread and step
};
struct Bf16Weight {
  static constexpr bool kScaled = false;
  static constexpr int kStepColumns = 32;
  static constexpr int kProducts = 2;
  static constexpr int kXChunks = 1;
};

// Calls f with the type of the weights and the tiles of 8 that so many tokens need, as a
// std::integral_constant. Few tokens in few tiles; the bits are the same in all of them.
template <typename F>
void with_tiles(bool fp8, int n_tokens, const F& f) {
  const auto with = [&](auto tiles) { fp8 ? f(Fp8Weight{}, tiles) : f(Bf16Weight{}, tiles); };
  if (n_tokens <= 8)
    with(std::integral_constant<int, 1>{});
  else if (n_tokens <= 16)
    with(std::integral_constant<int, 2>{});
  else
    with(std::integral_constant<int, 8>{});
}

__device__ __forceinline__ void fragments(Fp8Weight, const uint4& low, const uint4& high,
                                          uint32_t (&a)[4][4]) {
  const uint32_t l[4] = {low.x, low.y, low.z, low.w}, h[4] = {high.x, high.y, high.z, high.w};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    bf16_from_e4m3(l[j], a[j][0], a[j][2]);
    bf16_from_e4m3(h[j], a[j][1], a[j][3]);
  }
}
__device__ __forceinline__ void fragments(Bf16Weight, const uint4& low, const uint4& high,
                                          uint32_t (&a)[2][4]) {
  a[0][0] = low.x, a[0][1] = high.x, a[0][2] = low.y, a[0][3] = high.y;
  a[1][0] = low.z, a[1][1] = high.z, a[1][2] = low.w, a[1][3] = high.w;
}

// acc[16, 8] += a step's weights times 8 tokens. x: this thread's activations of token g. A step's
// products are summed apart where there is a scale: row g has scale_low, row g + 8 scale_high.
__device__ __forceinline__ void add_step(Fp8Weight, float (&acc)[4], const uint32_t (&a)[4][4],
                                         const uint4 (&x)[2], float scale_low, float scale_high) {
  float sum[4] = {0, 0, 0, 0};
  mma_bf16(sum, a[0], x[0].x, x[0].y);
  mma_bf16(sum, a[1], x[0].z, x[0].w);
  mma_bf16(sum, a[2], x[1].x, x[1].y);
  mma_bf16(sum, a[3], x[1].z, x[1].w);
  acc[0] = fmaf(sum[0], scale_low, acc[0]);
  acc[1] = fmaf(sum[1], scale_low, acc[1]);
  acc[2] = fmaf(sum[2], scale_high, acc[2]);
  acc[3] = fmaf(sum[3], scale_high, acc[3]);
}
__device__ __forceinline__ void add_step(Bf16Weight, float (&acc)[4], const uint32_t (&a)[2][4],
                                         const uint4 (&x)[1], float, float) {
  mma_bf16(acc, a[0], x[0].x, x[0].y);
  mma_bf16(acc, a[1], x[0].z, x[0].w);
}

// --- which rows a unit is -----------------------------------------------------------------------

// Row g of a unit and row g + 8, at this thread's bytes of step 0, and where their scales start.
// The `run` units that follow lie one behind the other: each kRowsPerUnit rows further.
struct RowPair {
  const std::byte* low;
  const std::byte* high;
  const std::byte* scale_low;
  const std::byte* scale_high;
  int first_low, first_high;  // of the 8 rows, in the segment
  int run;
};

// Where the scales of a segment's row begin; past the end the last row is read again.
__device__ __forceinline__ const std::byte* scale_row(const DenseLayout& l,
                                                      const DenseSegment& segment, int row,
                                                      int last) {
  return segment.scales + (min(row, last) >> l.block_rows_shift) * l.scale_row_bytes;
}

// Two rows of segments that have a layout. Past the end the last row is read again, for results
// that nobody stores. The scale is that of the first of 8 rows (dense_layout).
__device__ __forceinline__ RowPair row_pair(const DenseLayout& l, const DenseSegment& low,
                                            const DenseSegment& high, int first_low, int first_high,
                                            int last, int lane) {
  const int g = lane / 4, t = lane % 4;
  const auto row = [&](int first) { return static_cast<int64_t>(min(first + g, last)); };
  return {.low = low.data + row(first_low) * l.row_bytes + 16 * t,
          .high = high.data + row(first_high) * l.row_bytes + 16 * t,
          .scale_low = l.fp8 ? scale_row(l, low, first_low, last) : nullptr,
          .scale_high = l.fp8 ? scale_row(l, high, first_high, last) : nullptr,
          .first_low = first_low,
          .first_high = first_high,
          .run = 0};
}
// Whole units of n rows after the first of n_left rows.
__device__ __forceinline__ int run_of(int n_left, int n) { return max(n_left / n - 1, 0); }

// A plain unit: its segment and its first row there, counted within the group's range.
struct UnitPlace {
  const DenseSegment& segment;
  int group, first_row;
};
__device__ __forceinline__ UnitPlace place_of(const DenseWeight& w, int unit) {
  const int group = unit < w.units_per_group ? 0 : unit / w.units_per_group;
  const int u = unit - group * w.units_per_group;
  int s = 0;
  while (s + 1 < w.n_segments && u >= w.segments[s + 1].first_unit) ++s;
  return {w.segments[s], group, (u - w.segments[s].first_unit) * 16};
}

template <bool kPaired>
__device__ __forceinline__ RowPair rows_of(const DenseWeight& w, int unit, int lane) {
  RowPair out;
  if constexpr (kPaired) {
    const int first = unit * 8, rows = w.segments[0].rows;
    out = row_pair(w.layout, w.segments[0], w.segments[1], first, first, rows - 1, lane);
    out.run = run_of(rows - first, 8);
  } else {
    const UnitPlace p = place_of(w, unit);
    const int base = p.group * w.group_rows + w.group_first_row;
    out = row_pair(w.layout, p.segment, p.segment, base + p.first_row, base + p.first_row + 8,
                   base + p.segment.rows - 1, lane);
    out.run = run_of(p.segment.rows - p.first_row, 16);
  }
  return out;
}

// The columns of `out` that a unit's rows go to; the last unit of a segment may have fewer.
struct UnitColumns {
  int first, n;
};
template <bool kPaired>
__device__ __forceinline__ UnitColumns columns_of(const DenseWeight& w, int unit) {
  if constexpr (kPaired) return {unit * 8, min(8, w.segments[0].rows - unit * 8)};
  const UnitPlace p = place_of(w, unit);
  return {p.group * w.group_columns + p.segment.column + p.first_row,
          min(16, p.segment.rows - p.first_row)};
}

// --- scales -------------------------------------------------------------------------------------

// A scale travels to shared memory as the aligned word around it.
struct ScaleWord {
  uint32_t word;
  uint32_t shift;  // of the byte, where scales are ue8m0
};
// Where that is, for a step of the row whose scales begin at `row`: the word is there, allocations
// are whole multiples of kAlignBytes.
struct ScalePlace {
  const uint32_t* word;
  uint32_t shift;
};
__device__ __forceinline__ ScalePlace scale_place(const DenseLayout& l, const std::byte* row,
                                                  int step) {
  const int block = step >> l.scale_step_shift;
  const auto at =
      reinterpret_cast<uintptr_t>(row) + static_cast<uintptr_t>(l.ue8m0 ? block : 4 * block);
  return {reinterpret_cast<const uint32_t*>(at & ~uintptr_t{3}), static_cast<uint32_t>(at & 3) * 8};
}
__device__ __forceinline__ ScaleWord load_scale(const DenseLayout& l, const std::byte* row,
                                                int step) {
  const ScalePlace from = scale_place(l, row, step);
  return {*from.word, from.shift};
}
__device__ __forceinline__ void fetch_scale(const DenseLayout& l, const std::byte* row, int step,
                                            ScaleWord& to) {
  const ScalePlace from = scale_place(l, row, step);
  copy_async_4(&to.word, from.word);
  to.shift = from.shift;
}
__device__ __forceinline__ float scale_value(bool ue8m0, const ScaleWord& s) {
  return ue8m0 ? to_float(e8m0{static_cast<uint8_t>(s.word >> s.shift)}) : __uint_as_float(s.word);
}
__device__ __forceinline__ float scale_value(const DenseLayout& l, const ScaleWord& s) {
  return scale_value(l.ue8m0, s);
}
// To shared memory, for a step of the row whose scales begin at `row`: f32 ones as a copy that this
// thread has to wait for, the others at once.
__device__ __forceinline__ void bring_scale(const DenseLayout& l, const std::byte* row, int step,
                                            float* to) {
  const int block = step >> l.scale_step_shift;
  if (l.ue8m0)
    *to = to_float(e8m0{static_cast<uint8_t>(row[block])});
  else
    copy_async_4(to, row + 4 * block);
}

}  // namespace dsr::cuda
