// sample on CUDA. Definition and stages: ops/sample.h.
//
// Mapping   two kernels. `scan` shares a row out to blocks of 4,096 ids: each keeps its logits in
//           registers, edits them, and names the best of its part, or the draw's winner. `choose`
//           (choose.cuh) compares the parts, and cuts the row where that is asked for: a cluster
//           of blocks per row on sm_90, else one block.
// Traffic   a row of logits read once without cuts.
#include "base/math.h"
#include "sampling/choose.cuh"

namespace dsr::cuda {
namespace {

constexpr int kScanThreads = 256;
constexpr int kScanLoads = 4;  // of 16 bytes, all in flight
constexpr int kScanIds = kScanThreads * kScanLoads * 4;
constexpr int64_t kMaxIds = (int64_t{1} << 18) - 1;
static_assert(kMaxIds <= int64_t{kChooseThreads} * kScanIds, "one thread of choose reads one part");

// --- scan ---------------------------------------------------------------------------------------

struct ScanShared {
  float logits[kScanIds];  // where they are edited
  int times[kScanIds];     // that an id occurs in the penalties' window
  Best best[kScanThreads / 32];
};

// A thread's logits of a part: in four runs of four.
struct Slice {
  int first;  // id of the first
  float logits[kScanLoads][4];
  uint32_t allowed[kScanLoads];  // bit j: run[j] may be drawn; only ids of the row are

  __device__ __forceinline__ int id(int k, int j) const { return first + 4 * kScanThreads * k + j; }
  template <typename Visit>
  __device__ __forceinline__ void for_each(const Visit& visit) const {  // ids ascending
#pragma unroll
    for (int k = 0; k < kScanLoads; ++k)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if ((allowed[k] >> j & 1u) != 0) visit(id(k, j), logits[k][j]);
  }
};

// Reads the part; returns whether all of this thread's logits are finite.
__device__ __forceinline__ bool load(Slice& slice, const float* logits, int V) {
  const bool whole = V % 4 == 0 && reinterpret_cast<uintptr_t>(logits) % 16 == 0;
#pragma unroll
  for (int k = 0; k < kScanLoads; ++k) {
    const int id = slice.id(k, 0);
    if (whole) {
      const float4 v = id < V ? *reinterpret_cast<const float4*>(logits + id) : float4{};
      slice.logits[k][0] = v.x, slice.logits[k][1] = v.y;
      slice.logits[k][2] = v.z, slice.logits[k][3] = v.w;
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) slice.logits[k][j] = id + j < V ? logits[id + j] : 0;
    }
  }
  bool finite = true;
#pragma unroll
  for (int k = 0; k < kScanLoads; ++k)
#pragma unroll
    for (int j = 0; j < 4; ++j) finite = finite && isfinite(slice.logits[k][j]);
  return finite;
}

// Penalties, then biases, on the part's logits in shared memory, the first of which is `begin`'s.
__device__ void edit(const SampleParams& p, const SampleRow& row, int begin, ScanShared& sh) {
  const auto is_mine = [&](int id) { return id >= begin && id - begin < kScanIds && id < p.V; };
  for (int i = threadIdx.x; i < kScanIds; i += kScanThreads) sh.times[i] = 0;
  __syncthreads();
  for (int i = row.history_begin + threadIdx.x; i < row.history_end; i += kScanThreads) {
    const int id = p.history[i];
    if (is_mine(id)) atomicAdd(&sh.times[id - begin], 1);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kScanIds; i += kScanThreads) {
    if (sh.times[i] == 0) continue;
    const float before = sh.logits[i];
    const float logit =
        before > 0 ? before / row.repetition_penalty : before * row.repetition_penalty;
    const float penalty = __fadd_rn(
        row.presence_penalty, __fmul_rn(row.frequency_penalty, static_cast<float>(sh.times[i])));
    sh.logits[i] = __fsub_rn(logit, penalty);
  }
  __syncthreads();
  // The first entry of an id adds all of them, in order.
  for (int i = row.bias_begin + threadIdx.x; i < row.bias_end; i += kScanThreads) {
    const int id = p.bias_ids[i];
    bool first = is_mine(id);
    for (int k = row.bias_begin; k < i && first; ++k) first = p.bias_ids[k] != id;
    if (!first) continue;
    float logit = sh.logits[id - begin];
    for (int k = i; k < row.bias_end; ++k)
      if (p.bias_ids[k] == id) logit = __fadd_rn(logit, p.bias_values[k]);
    sh.logits[id - begin] = logit;
  }
  __syncthreads();
}

__device__ void edit(const SampleParams& p, const SampleRow& row, int r, Slice& slice,
                     ScanShared& sh) {
  const int begin = blockIdx.x * kScanIds;
#pragma unroll
  for (int k = 0; k < kScanLoads; ++k)
#pragma unroll
    for (int j = 0; j < 4; ++j) sh.logits[slice.id(k, j) - begin] = slice.logits[k][j];
  __syncthreads();
  edit(p, row, begin, sh);
  const bool kept = has_cuts(row, p.V);
  float* edited = p.edited + static_cast<int64_t>(r) * p.V;
#pragma unroll
  for (int k = 0; k < kScanLoads; ++k)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int id = slice.id(k, j);
      slice.logits[k][j] = sh.logits[id - begin];
      if (kept && id < p.V) edited[id] = slice.logits[k][j];
    }
}

// grid (parts, rows)
__global__ __launch_bounds__(kScanThreads) void scan_kernel(const SampleParams p) {
  __shared__ ScanShared sh;
  const int r = blockIdx.y;
  const SampleRow params = p.rows[r];  // the batch's own, as `allowed` is
  Slice slice;
  slice.first = blockIdx.x * kScanIds + 4 * threadIdx.x;
#pragma unroll
  for (int k = 0; k < kScanLoads; ++k) {
    const int id = slice.id(k, 0);
    slice.allowed[k] = id < p.V ? p.allowed[id / 32] >> (id % 32) & 15u : 0;
    if (id + 4 > p.V && id < p.V) slice.allowed[k] &= (1u << (p.V - id)) - 1;
  }
  wait_for_previous_kernel();
  const bool finite = __syncthreads_and(load(slice, p.logits + r * p.logits_stride, p.V)) != 0;
  if (has_edits(params)) edit(p, params, r, slice, sh);

  const auto scaled = [&](float logit) {
    return params.temperature > 0 ? logit / params.temperature : logit;
  };
  Best best = {0, -1};
  slice.for_each([&](int id, float logit) { keep_best(best, scaled(logit), id); });
  best = block_best(best, sh.best);
  if (params.temperature > 0 && best.id >= 0 && !has_cuts(params, p.V)) {
    const float bound = best.value + gumbel(params, best.id);
    best = {0, -1};
    slice.for_each([&](int id, float logit) {
      const float v = scaled(logit);
      if (v + kLargestGumbel >= bound) keep_best(best, v + gumbel(params, id), id);
    });
    best = block_best(best, sh.best);
  }
  if (threadIdx.x == 0) p.parts[r * p.n_parts + blockIdx.x] = {best.value, best.id, finite ? 1 : 0};
}

}  // namespace

void sample(Exec& exec, const SampleArgs& a) {
  const int64_t R = a.logits.shape[0], V = a.logits.shape[1];
  if (V > kMaxIds)
    fail(ErrorKind::kDevice, "sample: a vocabulary of ", with_commas(V), " on CUDA, at most ",
         with_commas(kMaxIds));
  const int64_t n_parts = ceil_div(V, int64_t{kScanIds});
  const bool cluster = exec.cuda().arch() >= 90 && V > kClusterIds;
  const int64_t blocks = cluster ? kChooseBlocks : 1;
  Arena& arena = exec.scratch();
  const Arena::Scope scope(arena);
  const Tensor parts = arena.tensor(DType::kU8, {R, n_parts, int64_t{sizeof(Part)}});
  const Tensor edited = arena.tensor(DType::kF32, {R, V});
  const Tensor sums = arena.tensor(DType::kI64, {R, 2, blocks, kBins});
  const Tensor lists = arena.tensor(DType::kI32, {R, 2, V});
  const Tensor listed = arena.tensor(DType::kI32, {R, blocks});
  const Tensor bests = arena.tensor(DType::kU8, {R, blocks, int64_t{sizeof(Best)}});
  const SampleParams params{.token_ids = a.token_ids.ptr<int32_t>(),
                            .non_finite = a.non_finite.ptr<int32_t>(),
                            .logits = a.logits.ptr<float>(),
                            .logits_stride = a.logits.strides[0],
                            .rows = static_cast<const SampleRow*>(a.rows.data),
                            .allowed = a.allowed.ptr<uint32_t>(),
                            .history = a.history.ptr<int32_t>(),
                            .bias_ids = a.bias_ids.ptr<int32_t>(),
                            .bias_values = a.bias_values.ptr<float>(),
                            .parts = static_cast<Part*>(parts.data),
                            .edited = edited.ptr<float>(),
                            .sums = sums.ptr<uint64_t>(),
                            .lists = lists.ptr<int32_t>(),
                            .listed = listed.ptr<int32_t>(),
                            .bests = static_cast<Best*>(bests.data),
                            .V = narrow(V),
                            .n_parts = narrow(n_parts)};
  const dim3 grid(static_cast<unsigned>(n_parts), static_cast<unsigned>(R));
  launch(exec, "sample scan", {.grid = grid, .threads = kScanThreads}, scan_kernel, params);
  if (cluster) return cluster_choose(exec, params, R);
  launch(exec, "sample choose", {.grid = dim3(static_cast<unsigned>(R)), .threads = kChooseThreads},
         choose_kernel<1>, params);
}

}  // namespace dsr::cuda
