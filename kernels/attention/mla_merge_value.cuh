// The sum of what the blocks of mla_decode_sm90.cu stored, and W_UV times it, in one kernel with
// the bits of the two: mla_merge.cuh and mla_value by stream.cuh.
//
// Mapping   a cluster of 8 blocks per row and head. A block adds up 64 of the 512 columns, gives
//           them to the others (st.async), and multiplies all of them by its 16 rows of W_UV; its
//           warps share out K and sum as stream.cuh does.
// Needs     heads of 128 values, FP8 weights (bf16 gained nothing).
// Memory    64 registers a thread: two blocks fit beside one of mla_page.cuh, so that all are there
//           before attention ends.
// Traffic   the stored items once; W_UV once per row of the batch, before the wait. Latency only.
#pragma once

#include "attention/mla_merge.cuh"
#include "gemm/stream.cuh"

namespace dsr::cuda {

constexpr int kMlaValueBlocks = kMlaWidth / kMlaSlice;  // of a cluster
static_assert(kMlaMergeWarps == kStreamWarps, "K is shared out as stream.cuh does");
static_assert(kMlaMergeWarps == kMlaValueBlocks, "a warp for each block to send to");

#if __CUDA_ARCH__ >= 900
// 128 bytes of a block's 16 rows, which are what a warp multiplies. K ends with whole blocks.
class ValueRows {
 public:
  // A thread reads what it wrote: until it multiplies, registers are the sum's.
  struct Memory {
    uint4 low[2][kMlaMergeThreads], high[2][kMlaMergeThreads];
    float2 scales[kMlaMergeThreads];  // of low and high
  };

  // Before the kernel before has ended.
  __device__ __forceinline__ static void fetch(const DenseLayout& l, const RowPair& rows,
                                               Memory& memory) {
    const int i = static_cast<int>(threadIdx.x), step = first_step();
    if (step >= l.n_steps) return;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      copy_async_16(&memory.low[k][i], rows.low + (step + k) * 64);
      copy_async_16(&memory.high[k][i], rows.high + (step + k) * 64);
    }
    commit_copies();
    memory.scales[i] = make_float2(scale(l, rows.scale_low), scale(l, rows.scale_high));
  }
  // acc += these rows times x, in shared memory.
  __device__ __forceinline__ static void multiply(const DenseLayout& l, const Memory& memory,
                                                  const bf16* x, float (&acc)[4]) {
    const int i = static_cast<int>(threadIdx.x), lane = i % 32, step = first_step();
    if (step >= l.n_steps) return;
    BlockX<Fp8Weight> x_tile;
    load_x<Fp8Weight>(reinterpret_cast<const std::byte*>(x), step, /*whole=*/true, lane, x_tile);
    make_operands(x_tile, lane);
    const uint4 low[2] = {memory.low[0][i], memory.low[1][i]};
    const uint4 high[2] = {memory.high[0][i], memory.high[1][i]};
    BlockWeights<Fp8Weight> weights;
    expand_block<Fp8Weight>(low, high, weights);
    const float2 scales = memory.scales[i];
    add_block(weights, x_tile, scales.x, scales.y, acc);
  }

 private:
  __device__ static int first_step() { return static_cast<int>(threadIdx.x) / 32 * 2; }
  __device__ __forceinline__ static float scale(const DenseLayout& l, const std::byte* row) {
    const int block = first_step() >> l.scale_step_shift;
    return l.ue8m0 ? to_float(reinterpret_cast<const e8m0*>(row)[block])
                   : reinterpret_cast<const float*>(row)[block];
  }
};
#endif

// Grid: heads times blocks of a cluster, rows.
static __global__ __launch_bounds__(kMlaMergeThreads, 4) void mla_merge_value_kernel(
    const __grid_constant__ MlaParts p, const __grid_constant__ DecodeRows rows,
    const __grid_constant__ DenseProduct value) {
#if __CUDA_ARCH__ >= 900
  __shared__ MlaMergeMemory m;
  __shared__ alignas(16) bf16 latent[kMlaWidth];
  __shared__ ValueRows::Memory weights;
  __shared__ float sums[kStreamWarps * kStreamSumStride];
  __shared__ uint64_t arrived;  // all of `latent`
  const int i = static_cast<int>(threadIdx.x), warp = i / 32, lane = i % 32;
  const int slice = static_cast<int>(rank_in_cluster()), unit = static_cast<int>(blockIdx.x);
  const int head = unit / kMlaValueBlocks;
  if (i == 0) {
    init_barrier(&arrived, 1);
    publish_barriers();
  }
  arrive_at_cluster();
  ValueRows::fetch(value.w.layout, rows_of<false>(value.w, unit, lane), weights);
  if (warp == 0) find_items(rows, static_cast<int>(blockIdx.y), m);
  __syncthreads();
  const MlaSlice part(p, head, slice * kMlaSlice, m);
  if (i == 0 && m.n_items > 1) arrive_expecting(&arrived, kMlaWidth * 2);
  wait_for_previous_kernel();

  if (m.n_items > 1) {
    const uint32_t pair = merge_slice(part, p.H * kMlaWidth, m);
    wait_for_cluster();  // the others are there, and their barriers
    send(static_cast<unsigned>(warp), reinterpret_cast<float*>(latent + slice * kMlaSlice) + lane,
         __uint_as_float(pair), &arrived);
  } else {  // it is in its place
    const std::byte* from =
        value.x + m.token * value.x_stride_bytes + int64_t{head} * value.x_group_bytes;
    if (i < kMlaWidth / 8)
      reinterpret_cast<uint4*>(latent)[i] = reinterpret_cast<const uint4*>(from)[i];
    __syncthreads();
    wait_for_cluster();
  }
  wait_for_copies<0>();
  if (m.n_items > 1) wait_barrier(&arrived, 0);
  float acc[1][4] = {};
  ValueRows::multiply(value.w.layout, weights, latent, acc[0]);
  keep_sums<1>(sums, acc, /*n=*/1);
  __syncthreads();
  if (i < 16)
    static_cast<bf16*>(value.out)[m.token * value.out_stride + unit * 16 + i] =
        from_float<bf16>(total(sums, /*n=*/1, /*token=*/0, i));
#endif
}

inline void merge_mla_value(Exec& exec, const DecodeRows& rows, const MlaParts& p,
                            const DenseProduct& value) {
  launch(exec, "mla_attention: merge and value",
         {.grid = dim3(static_cast<unsigned>(value.w.n_units), static_cast<unsigned>(rows.n_rows)),
          .threads = kMlaMergeThreads,
          .cluster = kMlaValueBlocks},
         mla_merge_value_kernel, p, rows, value);
}

}  // namespace dsr::cuda
