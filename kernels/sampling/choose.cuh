// The second kernel of sample: chooses among what scan found in the parts of a row, and first cuts
// the row where top_k, top_p or min_p are asked for.
//
// Mapping   kBlocks blocks per row, a cluster where they are several; each has a slice of the ids.
//           Without cuts the first one compares the parts' best and the others end. top_k and top_p
//           each keep a prefix of the order (logit descending, id ascending). Its last element is
//           found in a histogram over the distance from the best, to which every block adds its
//           slice, then among the ids of one bin, which every block lists. Weights of top_p are
//           integers (2^-28 of the best's), so that their sums have no order. What is drawn is a
//           largest value at a lowest id: no order either, and the same for any kBlocks.
// Traffic   with cuts a row of logits once from the L2 and twice more from L1, for each cut two of
//           these, and 64 KB of histograms per block. Philox runs only where the largest possible
//           number could win.
#pragma once

#include "sampling/sample_row.cuh"

namespace dsr::cuda {

constexpr int kChooseThreads = 1024;
constexpr int kChooseWarps = kChooseThreads / 32;
constexpr int kBins = 1024;
constexpr float kBinsPerUnit = 32;   // so the bins cover 32 units of logit / temperature
constexpr float kMassOne = 0x1p28f;  // the best's weight
constexpr int kLowBits = 14;         // the sums of both parts of 2^18 - 1 weights fit 32 bits
constexpr uint32_t kLowMask = (1u << kLowBits) - 1;
constexpr int kRanked = 256;  // ids whose places are found by comparing each with each
static_assert(kBins == kChooseThreads, "a thread has a bin");

struct ChooseShared {
  uint32_t low[kBins], high[kBins];  // sums of weights: the low bits, and the rest
  int count[kBins];
  uint64_t places[kRanked];
  uint32_t weights[kRanked];
  uint64_t of_warps[kChooseWarps];
  Best best[kChooseWarps];
  int listed[16], n_ranked;  // listed by every block
  int bin, in_bin;
  uint64_t before, last;  // weight of the bins before `bin`; the place that was looked for
};

// Waits for the row's other blocks and sees what they have written, to global memory too.
template <int kBlocks>
__device__ __forceinline__ void meet() {
#if __CUDA_ARCH__ >= 900
  if constexpr (kBlocks > 1) return meet_cluster();
#endif
  static_assert(kBlocks >= 1);
  __syncthreads();
}

// A row while it is sampled, and a block's slice of it.
struct Row {
  const float* logits;
  const uint32_t* allowed;
  int V, begin, end;  // the slice: ids [begin, end)
  float temperature;  // above 0
  float best;         // of logit / temperature
  // The last one kept: all ids with a larger value, or the same and no larger an id.
  uint32_t last_value = 0;
  int last_id = 0x7fffffff;

  __device__ float scaled(float logit) const { return logit / temperature; }
  __device__ bool keeps(float v, int id) const {
    const uint32_t key = ordered(v);
    return key > last_value || (key == last_value && id <= last_id);
  }
  __device__ float likelihood(float v) const { return expf(v - best); }
  __device__ int bin(float v) const {
    return min(max(static_cast<int>((best - v) * kBinsPerUnit), 0), kBins - 1);
  }
};
// The ids of a slice: a multiple of 4, for loads of 16 bytes.
__host__ __device__ constexpr int slice_ids(int V, int n_blocks) {
  return (V + 4 * n_blocks - 1) / (4 * n_blocks) * 4;
}

// Four ids in a row, from the id 4 i.
struct Four {
  float logits[4];
  uint32_t allowed;  // bit j: the id may be drawn and is the slice's
};
__device__ __forceinline__ Four four(const Row& row, int i, bool whole) {
  Four out = {};
  const int id = 4 * i, n = row.end - id;
  if (n <= 0) return out;
  out.allowed = row.allowed[id / 32] >> (id % 32) & 15u;
  if (n < 4) out.allowed &= (1u << n) - 1;
  if (whole) {
    const float4 v = *reinterpret_cast<const float4*>(row.logits + id);
    out.logits[0] = v.x, out.logits[1] = v.y, out.logits[2] = v.z, out.logits[3] = v.w;
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (j < n) out.logits[j] = row.logits[id + j];
  }
  return out;
}
// visit(id, logit) of this thread's ids that may be drawn. The next four are on their way
// meanwhile; no more, since code that runs once a step has to be fetched as well.
template <typename Visit>
__device__ __forceinline__ void for_each_logit(const Row& row, const Visit& visit) {
  const bool whole = row.V % 4 == 0 && reinterpret_cast<uintptr_t>(row.logits) % 16 == 0;
  int i = row.begin / 4 + static_cast<int>(threadIdx.x);
  Four now = four(row, i, whole);
#pragma unroll 1
  for (; 4 * i < row.end; i += kChooseThreads) {
    const Four next = four(row, i + kChooseThreads, whole);
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if ((now.allowed >> j & 1u) != 0) visit(4 * i + j, now.logits[j]);
    now = next;
  }
}

enum class Weigh { kCount, kMass };
__device__ __forceinline__ uint32_t weight_of(Weigh what, const Row& row, float v) {
  return what == Weigh::kCount ? 1 : __float2uint_rn(row.likelihood(v) * kMassOne);
}

// --- sums of weights ----------------------------------------------------------------------------

__device__ __forceinline__ void clear_bins(ChooseShared& sh) {
  sh.low[threadIdx.x] = sh.high[threadIdx.x] = 0;
  sh.count[threadIdx.x] = 0;
  __syncthreads();
}
__device__ __forceinline__ void add_to_bin(ChooseShared& sh, int bin, uint32_t w) {
  atomicAdd(&sh.low[bin], w & kLowMask);
  if (w > kLowMask) atomicAdd(&sh.high[bin], w >> kLowBits);
}
// Of this thread's bin; after a barrier.
__device__ __forceinline__ uint64_t bin_weight(const ChooseShared& sh) {
  return sh.low[threadIdx.x] + (uint64_t{sh.high[threadIdx.x]} << kLowBits);
}

// The sum over the lanes up to this one.
__device__ __forceinline__ uint64_t sum_upto(uint64_t v, int lane) {
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const uint64_t other = __shfl_up_sync(0xffffffffu, v, offset);
    if (lane >= offset) v += other;
  }
  return v;
}
struct Running {
  uint64_t upto, total;  // of the bins up to this thread's, itself included; of all
};
__device__ inline Running running_weight(uint64_t mine, ChooseShared& sh) {
  static_assert(kChooseWarps == 32, "a lane has a warp's sum");
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const uint64_t upto = sum_upto(mine, lane);
  __syncthreads();
  if (lane == 31) sh.of_warps[warp] = upto;
  __syncthreads();
  const uint64_t of_warp = sh.of_warps[lane], upto_warp = sum_upto(of_warp, lane);
  return {upto + __shfl_sync(0xffffffffu, upto_warp - of_warp, warp),
          __shfl_sync(0xffffffffu, upto_warp, 31)};
}
// Tells all threads the bin in which the running weight reaches `target`, and what is before it.
__device__ __forceinline__ void find_bin(uint64_t target, uint64_t mine, uint64_t upto,
                                         ChooseShared& sh) {
  if (upto >= target && upto - mine < target) {
    sh.bin = static_cast<int>(threadIdx.x);
    sh.before = upto - mine;
    sh.in_bin = sh.count[threadIdx.x];
  }
  __syncthreads();
}

// --- the last one kept --------------------------------------------------------------------------

// The order of the kept: smaller places first.
__device__ __forceinline__ uint64_t place_of(float v, int id) {
  return (uint64_t{~ordered(v)} << 32) | static_cast<uint32_t>(id);
}

// The ids of the bin, as the blocks have listed them.
template <int kBlocks>
struct Listed {
  const int32_t* ids;
  const int* n_of_blocks;
  int n, slice;

  // visit(place, value)
  template <typename Visit>
  __device__ __forceinline__ void for_each(const Row& row, const Visit& visit) const {
    for (int i = static_cast<int>(threadIdx.x); i < n; i += kChooseThreads) {
      int block = 0, at = i;
      while (at >= n_of_blocks[block]) at -= n_of_blocks[block++];
      const int id = __ldcg(ids + block * slice + at);
      const float v = row.scaled(row.logits[id]);
      visit(place_of(v, id), v);
    }
  }
};

// The smallest of all threads' values.
__device__ inline uint64_t block_min(uint64_t v, ChooseShared& sh) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    v = min(v, __shfl_xor_sync(0xffffffffu, v, offset));
  __syncthreads();
  if (threadIdx.x % 32 == 0) sh.of_warps[threadIdx.x / 32] = v;
  __syncthreads();
#pragma unroll 1
  for (int w = 0; w < kChooseWarps; ++w) v = min(v, sh.of_warps[w]);
  return v;
}

// The place among the listed at which the running weight reaches `missing`. While there are many
// of them, a thousandth of the range of places that is left, at a time.
template <int kBlocks>
__device__ uint64_t place_reaching(uint64_t missing, Weigh what, const Row& row,
                                   const Listed<kBlocks>& listed, ChooseShared& sh) {
  uint64_t low = 0, high = ~uint64_t{0};
  int n = listed.n;
  if (n > kRanked) {
    listed.for_each(row, [&](uint64_t place, float) {
      high = min(high, place);
      low = max(low, place);
    });
    const uint64_t least = block_min(high, sh);
    high = ~block_min(~low, sh);
    low = least;
  }
  while (n > kRanked) {
    const int shift = max(0, 64 - 10 - __clzll(static_cast<long long>(high - low)));
    __syncthreads();
    clear_bins(sh);
    listed.for_each(row, [&](uint64_t place, float v) {
      if (place < low || place > high) return;
      const auto bin = static_cast<int>((place - low) >> shift);
      add_to_bin(sh, bin, weight_of(what, row, v));
      atomicAdd(&sh.count[bin], 1);
    });
    __syncthreads();
    const uint64_t mine = bin_weight(sh);
    find_bin(missing, mine, running_weight(mine, sh).upto, sh);
    missing -= sh.before;
    low += static_cast<uint64_t>(sh.bin) << shift;
    high = min(high, low + ((uint64_t{1} << shift) - 1));
    n = sh.in_bin;
  }
  __syncthreads();
  if (threadIdx.x == 0) sh.n_ranked = 0;
  __syncthreads();
  listed.for_each(row, [&](uint64_t place, float v) {
    if (place < low || place > high) return;
    const int at = atomicAdd(&sh.n_ranked, 1);
    sh.places[at] = place;
    sh.weights[at] = weight_of(what, row, v);
  });
  __syncthreads();
  if (static_cast<int>(threadIdx.x) < n) {
    const uint64_t mine = sh.places[threadIdx.x];
    uint64_t before = 0;
#pragma unroll 2
    for (int i = 0; i < n; ++i) before += sh.places[i] < mine ? sh.weights[i] : 0;
    if (before < missing && before + sh.weights[threadIdx.x] >= missing) sh.last = mine;
  }
  __syncthreads();
  return sh.last;
}

// Lists the slice's ids that are wanted(value, id), from its first place in the row's list; how
// many, in all threads.
template <typename Wanted>
__device__ __forceinline__ int list_ids(const Row& row, int32_t* list, ChooseShared& sh,
                                        const Wanted& wanted) {
  __syncthreads();
  if (threadIdx.x == 0) sh.n_ranked = 0;
  __syncthreads();
  for_each_logit(row, [&](int id, float logit) {
    const float v = row.scaled(logit);
    if (wanted(v, id)) list[row.begin + atomicAdd(&sh.n_ranked, 1)] = id;
  });
  __syncthreads();
  return sh.n_ranked;
}

// Moves the row's last kept element to where the running weight, largest value first, reaches
// `share` of the whole (kMass) or `share` itself (kCount).
template <int kBlocks>
__device__ void cut(const SampleParams& p, Row& row, Weigh what, double share, ChooseShared& sh) {
  const int r = static_cast<int>(blockIdx.x) / kBlocks;
  const int block = static_cast<int>(blockIdx.x) % kBlocks;
  __syncthreads();
  clear_bins(sh);
  uint32_t far = 0;  // in the last bin, where many ids may be
  for_each_logit(row, [&](int id, float logit) {
    const float v = row.scaled(logit);
    if (!row.keeps(v, id)) return;
    const uint32_t w = weight_of(what, row, v);
    if (w == 0) return;
    const int bin = row.bin(v);
    if (bin == kBins - 1)
      far += w;
    else
      add_to_bin(sh, bin, w);
  });
  far = __reduce_add_sync(0xffffffffu, far);
  if (threadIdx.x % 32 == 0 && far > 0) add_to_bin(sh, kBins - 1, far);
  __syncthreads();
  uint64_t mine = bin_weight(sh);
  if constexpr (kBlocks > 1) {
    const int which = what == Weigh::kCount ? 0 : 1;
    uint64_t* sums = p.sums + (int64_t{r} * 2 + which) * kBlocks * kBins + threadIdx.x;
    sums[block * kBins] = mine;
    meet<kBlocks>();
    mine = 0;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) mine += __ldcg(sums + b * kBins);
  }
  const Running running = running_weight(mine, sh);
  const double wanted =
      what == Weigh::kCount ? share : ceil(share * static_cast<double>(running.total));
  const uint64_t target = wanted < 1 ? 1 : static_cast<uint64_t>(wanted);
  // Keeps all: the total is above 0, the best's weight is in it.
  if (target >= running.total) return;
  find_bin(target, mine, running.upto, sh);

  const int bin = sh.bin;
  int32_t* list = p.lists + int64_t{2 * r} * p.V;
  const int n_mine = list_ids(
      row, list, sh, [&](float v, int id) { return row.bin(v) == bin && row.keeps(v, id); });
  if (threadIdx.x == 0) p.listed[r * kBlocks + block] = n_mine;
  meet<kBlocks>();
  if (threadIdx.x < kBlocks) sh.listed[threadIdx.x] = __ldcg(p.listed + r * kBlocks + threadIdx.x);
  __syncthreads();
  int n = 0;
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) n += sh.listed[b];
  const Listed<kBlocks> listed = {list, sh.listed, n, slice_ids(p.V, kBlocks)};
  const uint64_t last = place_reaching(target - sh.before, what, row, listed, sh);
  row.last_value = ~static_cast<uint32_t>(last >> 32);
  row.last_id = static_cast<int>(last & 0xffffffffu);
}

// The winner of the slice.
__device__ inline Best draw(const Row& row, const SampleRow& params, Best likeliest, int32_t* list,
                            ChooseShared& sh) {
  const float bound = likeliest.value + gumbel(params, likeliest.id), min_p = params.min_p;
  const int n = list_ids(row, list, sh, [&](float v, int id) {
    return v + kLargestGumbel >= bound && row.keeps(v, id) &&
           (min_p == 0 || row.likelihood(v) >= min_p);
  });
  Best best = {0, -1};
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kChooseThreads) {
    const int id = list[row.begin + i];
    best = better(best, {row.scaled(row.logits[id]) + gumbel(params, id), id});
  }
  return block_best(best, sh.best);
}

// grid (rows * kBlocks)
template <int kBlocks>
__global__ __launch_bounds__(kChooseThreads) void choose_kernel(const SampleParams p) {
  __shared__ ChooseShared sh;
  static_assert(kBlocks <= static_cast<int>(sizeof(sh.listed) / sizeof(int)));
  const int r = static_cast<int>(blockIdx.x) / kBlocks;
  const int block = static_cast<int>(blockIdx.x) % kBlocks;
  const SampleRow& params = p.rows[r];  // read where it is needed: registers are few
  wait_for_previous_kernel();
  Part mine = {0, -1, 1};
  if (static_cast<int>(threadIdx.x) < p.n_parts) mine = p.parts[r * p.n_parts + threadIdx.x];
  const bool finite = __syncthreads_and(mine.finite) != 0;
  Best best = block_best({mine.value, mine.id}, sh.best);
  if (finite && best.id >= 0 && has_cuts(params, p.V)) {
    const int slice = slice_ids(p.V, kBlocks);
    Row row{
        .logits = has_edits(params) ? p.edited + int64_t{r} * p.V : p.logits + r * p.logits_stride,
        .allowed = p.allowed,
        .V = p.V,
        .begin = block * slice,  // past the end where V is small
        .end = min((block + 1) * slice, p.V),
        .temperature = params.temperature,
        .best = best.value};
#pragma unroll 1
    for (int i = 0; i < 2; ++i) {  // the code once
      const Weigh what = i == 0 ? Weigh::kCount : Weigh::kMass;
      const bool count = what == Weigh::kCount;
      if (count ? params.top_k > 0 && params.top_k < p.V : params.top_p < 1)
        cut<kBlocks>(p, row, what, count ? params.top_k : static_cast<double>(params.top_p), sh);
    }
    // A list of its own: other blocks may still read that of the cut.
    best = draw(row, params, best, p.lists + int64_t{2 * r + 1} * p.V, sh);
    if constexpr (kBlocks > 1) {
      Best* bests = p.bests + r * kBlocks;
      if (threadIdx.x == 0) bests[block] = best;
      meet<kBlocks>();
      if (block != 0 || threadIdx.x != 0) return;
      best = {0, -1};
#pragma unroll
      for (int b = 0; b < kBlocks; ++b)
        best = better(best, {__ldcg(&bests[b].value), __ldcg(&bests[b].id)});
    }
  }
  if (block == 0 && threadIdx.x == 0) {
    p.token_ids[r] = finite ? best.id : -1;
    p.non_finite[r] = finite ? 0 : 1;
  }
}

// kChooseBlocks blocks per row of more than kClusterIds ids; sm_90 (choose_sm90.cu).
inline constexpr int kChooseBlocks = 8;
inline constexpr int64_t kClusterIds = 8 * kChooseThreads;  // fewer are little work for one block
void cluster_choose(Exec& exec, const SampleParams& p, int64_t n_rows);

}  // namespace dsr::cuda
