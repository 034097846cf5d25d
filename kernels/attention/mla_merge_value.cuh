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
#include "gemm/one_row.cuh"
#include "gemm/stream.cuh"

namespace dsr::cuda {

constexpr int kMlaValueBlocks = kMlaWidth / kMlaSlice;  // of a cluster
static_assert(kMlaMergeWarps == kStreamWarps && kMlaWidth <= 128 * kStreamWarps,
              "K is shared out as stream.cuh does");
static_assert(kMlaMergeWarps == kMlaValueBlocks, "a warp for each block to send to");

constexpr int kMlaValueWarps = kMlaWidth / 128;  // that multiply, 128 bytes of each row

#if __CUDA_ARCH__ >= 900
// 128 bytes of a block's 16 rows, which are what a warp multiplies; one of the first warps.
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
    const unsigned i = threadIdx.x;
    const int step = static_cast<int>(i / 32) * 2;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      copy_async_16(&memory.low[k][i], rows.low + (step + k) * 64);
      copy_async_16(&memory.high[k][i], rows.high + (step + k) * 64);
    }
    commit_copies();
    memory.scales[i] = make_float2(scale(l, rows.scale_low), scale(l, rows.scale_high));
  }
  // What was fetched.
  __device__ __forceinline__ explicit ValueRows(const Memory& memory) {
    const unsigned i = threadIdx.x;
    wait_for_copies<0>();
#pragma unroll
    for (int k = 0; k < 2; ++k) low_[k] = memory.low[k][i], high_[k] = memory.high[k][i];
    scales_ = memory.scales[i];
  }
  // What this thread multiplies of x, in shared memory.
  __device__ __forceinline__ static uint32_t chunk_of(const bf16* x) {
    const unsigned warp = threadIdx.x / 32, g = threadIdx.x / 4 % 8, t = threadIdx.x % 4;
    return shared_address(x + warp * 128 + g / 2 % 2 * 64 + t * 16 + g % 2 * 8);
  }
  // These rows times x: of row g and g + 8, in every lane of a quad.
  __device__ __forceinline__ float2 multiply(uint32_t chunk_of_x) const {
    uint4 chunk = load_shared_16(chunk_of_x);
    uint32_t largest = 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) largest = HalfUnit::larger(largest, word_of(chunk, k));
    const HalfUnit unit = HalfUnit::of<16>(largest);
    chunk = make_uint4(unit.quotients(chunk.x), unit.quotients(chunk.y), unit.quotients(chunk.z),
                       unit.quotients(chunk.w));
    float steps[2];
    multiply_steps<Fp8Weight>(low_, high_, chunk, static_cast<int>(threadIdx.x % 32), steps);
    return make_float2(fmaf(block_of_steps(steps[0]) * unit.value(), scales_.x, 0.0f),
                       fmaf(block_of_steps(steps[1]) * unit.value(), scales_.y, 0.0f));
  }

 private:
  __device__ __forceinline__ static float scale(const DenseLayout& l, const std::byte* row) {
    const int block = static_cast<int>(threadIdx.x / 32) * 2 >> l.scale_step_shift;
    return l.ue8m0 ? to_float(reinterpret_cast<const e8m0*>(row)[block])
                   : reinterpret_cast<const float*>(row)[block];
  }

  uint4 low_[2], high_[2];
  float2 scales_;
};
#endif

// Grid: heads times blocks of a cluster, rows.
static __global__ __launch_bounds__(kMlaMergeThreads, 4) void mla_merge_value_kernel(
    const __grid_constant__ MlaParts p, const __grid_constant__ DecodeRows rows,
    const __grid_constant__ DenseProduct value) {
#if __CUDA_ARCH__ >= 900
  __shared__ MlaMergeMemory m;
  __shared__ MlaGroupSums groups;
  __shared__ alignas(16) bf16 latent[kMlaWidth];
  __shared__ ValueRows::Memory weights;
  __shared__ float sums[kMlaValueWarps][16];
  __shared__ uint64_t arrived;  // all of `latent`
  const unsigned i = threadIdx.x, warp = i / 32, lane = i % 32, slice = rank_in_cluster();
  const int unit = static_cast<int>(blockIdx.x), head = unit / kMlaValueBlocks;
  if (i == 0) {
    init_barrier(&arrived, 1);
    publish_barriers();
  }
  arrive_at_cluster();
  if (warp < kMlaValueWarps)
    ValueRows::fetch(value.w.layout, rows_of<false>(value.w, unit, static_cast<int>(lane)),
                     weights);
  if (warp == 0) find_items(rows, static_cast<int>(blockIdx.y), m);
  __syncthreads();
  const MlaSlice part(p, head, static_cast<int>(slice) * kMlaSlice, m, groups);
  uint32_t x = ValueRows::chunk_of(latent);
  bf16* out = static_cast<bf16*>(value.out) + m.token * value.out_stride + unit * 16 + i;
  asm volatile("" : "+r"(x), "+l"(out));  // not put together anew behind the wait
  if (i == 0 && m.n_items > 1) arrive_expecting(&arrived, kMlaWidth * 2);
  wait_for_cluster();  // the others are there, and their barriers
  wait_for_previous_kernel();

  if (part.n_items > 1) {
    const uint32_t pair = merge_slice(part, p.H, groups);
    send(warp, reinterpret_cast<float*>(latent + slice * kMlaSlice) + lane, __uint_as_float(pair),
         &arrived);
  } else {  // it is in its place
    const std::byte* from =
        value.x + m.token * value.x_stride_bytes + int64_t{head} * value.x_group_bytes;
    if (i < kMlaWidth / 8)
      reinterpret_cast<uint4*>(latent)[i] = reinterpret_cast<const uint4*>(from)[i];
    __syncthreads();
  }
  if (warp >= kMlaValueWarps) return;
  const ValueRows held(weights);
  if (part.n_items > 1) wait_barrier(&arrived, 0);
  const float2 block = held.multiply(x);
  const unsigned g = lane / 4, t = lane % 4;
  if (t < 2) sums[warp][g + 8 * t] = t == 0 ? block.x : block.y;
  wait_for_threads<1, kMlaValueWarps * 32>();
  if (i >= 16) return;
  float sum = sums[0][i];
#pragma unroll
  for (int w = 1; w < kMlaValueWarps; ++w) sum += sums[w][i];
  // As stream.cuh adds up what the warps have that have no columns.
  sum += 0.0f;
  *out = from_float<bf16>(sum);
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
