// The second half of mla_attention_and_value on sm_90 for few tokens: the parts of split rows are
// merged by whoever multiplies them, which saves a kernel between. Definition and shapes:
// ops/mla.h.
//
// Mapping   a block per 16 rows of W_UV, all of one head. A warp has 128 bytes of each row, fetched
//           before the kernel before has ended. The warps merge the head's latent into shared
//           memory, rounded as mla_attention stores it, and multiply.
// Order     of a merge: paged.cuh; of the product: gemm/stream.cuh. So a row has the same bits here
//           and there.
// Needs     one token; rows of at most 1 KB; heads for two blocks per SM at most.
// Traffic   W_UV once; parts 8 times (128 rows of a head in blocks of 16), from L2.
#include "attention/mla_kernels.h"
#include "attention/paged.cuh"
#include "common/rows.cuh"
#include "gemm/linear_kernels.h"
#include "gemm/stream.cuh"

namespace dsr::cuda {
namespace {

constexpr int kWarps = kStreamWarps, kThreads = kConsumers;
constexpr int kWidth = 512;  // of a latent

struct ValueParams {
  DenseProduct product;  // x: latents [1, H, kWidth], where the row is in no parts
  Partials partials;
  PagedBatch batch;
  int n_sequences;
};

#if __CUDA_ARCH__ >= 900

// In how many parts the one row is, and whose it is: a batch may hold sequences of no token.
struct RowParts {
  int count, sequence;
};
__device__ __forceinline__ void find_parts(const ValueParams& p, RowParts& out) {
  for (int s = static_cast<int>(threadIdx.x); s < p.n_sequences; s += kThreads) {
    const QueryRange range = query_range(p.batch, s);
    if (range.count == 1) out = {n_splits_of(range.n), s};
  }
  __syncthreads();
}

// The weight of each part of a row, in `weights`, by one warp. Returns 1 / the sum of the weights.
// Lane i looks at the parts i, i + 32, ...
__device__ __forceinline__ float weigh_parts(const float2 (&stats)[kMaxSplits / 32], int n_parts,
                                             float* weights) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float max = -INFINITY;
#pragma unroll
  for (const float2& stat : stats) max = fmaxf(max, stat.x);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, offset));
  float sum = 0;
#pragma unroll
  for (int k = 0; k < kMaxSplits / 32; ++k) {
    if (k * 32 >= n_parts) break;
    const float weight = exp2f(stats[k].x - max), weighted = __fmul_rn(weight, stats[k].y);
    weights[lane + 32 * k] = weight;
#pragma unroll 8
    for (int j = 0; j < min(32, n_parts - k * 32); ++j)
      sum = __fadd_rn(sum, __shfl_sync(0xffffffffu, weighted, j));
  }
  __syncwarp();
  return 1 / sum;
}

// The latent of a head: a thread has two columns of it.
__device__ __forceinline__ void merge_latent(const ValueParams& p, int head, const RowParts& parts,
                                             float* weights, bf16* to) {
  constexpr int kAtOnce = 32;  // parts whose loads are under way
  const int i = static_cast<int>(threadIdx.x), lane = i % 32, n_parts = parts.count;
  auto* out = reinterpret_cast<uint32_t*>(to) + i;
  if (n_parts == 1) {
    *out = reinterpret_cast<const uint32_t*>(p.product.x + head * p.product.x_group_bytes)[i];
    return;
  }
  const int64_t row = p.partials.row(parts.sequence, 0, head), step = p.partials.H;
  float2 stats[kMaxSplits / 32];
#pragma unroll
  for (int k = 0; k < kMaxSplits / 32; ++k)
    stats[k] = lane + 32 * k < n_parts ? p.partials.stats[row + (lane + 32 * k) * step]
                                       : make_float2(-INFINITY, 0);
  const auto* from = reinterpret_cast<const float2*>(p.partials.sums + row * kWidth) + i;
  float2 v[kAtOnce];
  const auto fetch = [&](int first) {
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j)
      if (first + j < n_parts) v[j] = from[(first + j) * step * (kWidth / 2)];
  };
  fetch(0);
  const float scale = weigh_parts(stats, n_parts, weights);
  float2 acc = {0, 0};
  for (int first = 0; first < n_parts; first += kAtOnce) {
    if (first > 0) fetch(first);
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      if (first + j >= n_parts) break;
      const float weight = weights[first + j];
      acc.x = fmaf(weight, v[j].x, acc.x);
      acc.y = fmaf(weight, v[j].y, acc.y);
    }
  }
  *out = pack_bf16(acc.x * scale, acc.y * scale);
}
static_assert(kWidth == 2 * kThreads, "a thread has two columns");

// A warp's 128 bytes of rows g and g + 8, with the scales of both.
template <typename W>
struct WarpWeights {
  uint4 low[2], high[2];
  float scale_low = 1, scale_high = 1;

  __device__ __forceinline__ WarpWeights(const DenseWeight& w, int unit, int step, int lane) {
    const RowPair r = rows_of<false>(w, unit, lane);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const bool there = step + i < w.layout.n_steps;
      low[i] = there ? load_once(r.low + (step + i) * 64) : make_uint4(0, 0, 0, 0);
      high[i] = there ? load_once(r.high + (step + i) * 64) : make_uint4(0, 0, 0, 0);
    }
    if (!W::kScaled || step >= w.layout.n_steps) return;
    const int block = step >> w.layout.scale_step_shift;
    scale_low = scale_at(w.layout, r.scale_low, block);
    scale_high = scale_at(w.layout, r.scale_high, block);
  }
  // acc += these times a token's activations, in every column of the product.
  __device__ __forceinline__ void multiply(const void* token, int step, int n_steps, int lane,
                                           float (&acc)[4]) const {
    BlockX<W> x;
    load_x<W>(static_cast<const std::byte*>(token), step, step + 1 < n_steps, lane, x);
    make_operands(x, lane);
    BlockWeights<W> w;
    expand_block<W>(low, high, w);
    add_block(w, x, scale_low, scale_high, acc);
  }

 private:
  __device__ static float scale_at(const DenseLayout& l, const std::byte* row, int block) {
    return l.ue8m0 ? to_float(reinterpret_cast<const e8m0*>(row)[block])
                   : reinterpret_cast<const float*>(row)[block];
  }
};

#endif

template <typename W>
__global__ __launch_bounds__(kThreads) void mla_value_kernel(
    const __grid_constant__ ValueParams p) {
#if __CUDA_ARCH__ >= 900
  __shared__ __align__(16) bf16 latent[kWidth];
  __shared__ float sums[kWarps * kStreamSumStride];
  __shared__ float part_weights[kWarps][kMaxSplits];
  __shared__ RowParts parts;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const DenseProduct& d = p.product;
  const int unit = static_cast<int>(blockIdx.x), step = 2 * warp;
  const UnitPlace place = place_of(d.w, unit);
  const WarpWeights<W> weights(d.w, unit, step, lane);
  find_parts(p, parts);
  wait_for_previous_kernel();

  merge_latent(p, place.group, parts, part_weights[warp], latent);
  __syncthreads();
  float acc[1][4] = {};
  if (step < d.w.layout.n_steps) weights.multiply(latent, step, d.w.layout.n_steps, lane, acc[0]);
  keep_sums<1>(sums, acc, 1);
  __syncthreads();
  const int row = static_cast<int>(threadIdx.x);
  if (row < min(16, place.segment.rows - place.first_row))
    store_as(d.out, d.out_f32, place.group * d.w.group_columns + place.first_row + row,
             total(sums, 1, 0, row));
#endif
}

template <typename W>
void run(Exec& exec, const ValueParams& p) {
  launch(exec, "mla_value",
         {.grid = dim3(static_cast<unsigned>(p.product.w.n_units)), .threads = kThreads},
         mla_value_kernel<W>, p);
}

}  // namespace

bool mla_merge_and_value(Exec& exec, const MlaValueArgs& a, const Partials& partials,
                         const PagedBatch& batch, int64_t n_sequences) {
  if (a.out.shape[0] != 1 || a.latent.shape[2] != kWidth || !rows_allow_16(a.latent)) return false;
  const auto product = mla_value_product(a);
  // More units than run at once would merge one wave after the other.
  if (!product || product->w.layout.n_steps > 2 * kWarps ||
      product->w.n_units > 2 * exec.cuda().n_sms())
    return false;
  const ValueParams p = {.product = *product,
                         .partials = partials,
                         .batch = batch,
                         .n_sequences = narrow(n_sequences)};
  p.product.w.layout.fp8 ? run<Fp8Weight>(exec, p) : run<Bf16Weight>(exec, p);
  return true;
}

}  // namespace dsr::cuda
