// sample on CUDA. Definition and stages: ops/sample.h.
//
// Mapping   two kernels. `scan` shares a row out to blocks of 4,096 ids: each keeps its logits in
//           registers, edits them, and names the best of its part, or the draw's winner. `choose`
//           has one block per row. Without cuts it compares the parts' best; with cuts it goes on:
//           top_k and top_p each keep a prefix of the order (logit descending, id ascending), whose
//           last element is found by a histogram of the distance from the best, then by bisection
//           inside one bin. Weights of top_p are integers (2^-28 of the best's), so that their sums
//           have no order. What is drawn is a largest value at a lowest id: no order either.
// Traffic   a row of logits read once without cuts, up to four times more with them, by one block.
//           Philox runs only where the largest possible number could win.
#include "ops/sample.h"

#include "base/math.h"
#include "base/rng.h"
#include "common/launch.h"
#include "common/ptx.cuh"
#include "common/types.cuh"

namespace dsr::cuda {
namespace {

constexpr int kThreads = 1024;  // of choose
constexpr int kWarps = kThreads / 32;
constexpr int kScanThreads = 256;
constexpr int kScanLoads = 4;  // of 16 bytes, all in flight
constexpr int kScanIds = kScanThreads * kScanLoads * 4;
constexpr int kBins = 1024;
constexpr float kBinsPerUnit = 32;   // so the bins cover 32 units of logit / temperature
constexpr float kMassOne = 0x1p28f;  // the best's weight
constexpr int kLowBits = 14;         // the sums of both parts of 2^18 - 1 weights fit 32 bits
constexpr uint32_t kLowMask = (1u << kLowBits) - 1;
constexpr int64_t kMaxIds = (int64_t{1} << 18) - 1;
constexpr float kLargestGumbel = 16.7f;  // -log(-log(1 - 2^-24)) = 16.64
static_assert(kBins == kThreads, "one thread clears one bin");
static_assert(kMaxIds <= int64_t{kThreads} * kScanIds, "one thread of choose reads one part");

// What scan knows of a part of a row.
struct __align__(16) Part {
  float value;  // logit / temperature; with Gumbel's number where there are no cuts
  int id;       // whose it is; -1: no id of the part may be drawn
  int finite;   // whether all logits as the model gave them are
};

struct SampleParams {
  int32_t* token_ids;   // [R]
  int32_t* non_finite;  // [R]
  const float* logits;  // [R, V]
  int64_t logits_stride;
  const SampleRow* rows;
  const uint32_t* allowed;
  const int32_t* history;
  const int32_t* bias_ids;
  const float* bias_values;
  Part* parts;     // [R, n_parts]
  float* edited;   // [R, V]: logits after penalties and biases, where both edits and cuts are
  int32_t* lists;  // [R, V]: ids of one bin
  int V, n_parts;
};

__device__ __forceinline__ bool has_edits(const SampleRow& row) {
  return row.history_end > row.history_begin || row.bias_end > row.bias_begin;
}
__device__ __forceinline__ bool has_cuts(const SampleRow& row, int V) {
  return row.temperature > 0 &&
         ((row.top_k > 0 && row.top_k < V) || row.top_p < 1 || row.min_p > 0);
}

struct Best {
  float value;
  int id;  // -1: none
};
__device__ __forceinline__ Best better(Best a, Best b) {
  if (a.id < 0) return b;
  if (b.id < 0) return a;
  return b.value > a.value || (b.value == a.value && b.id < a.id) ? b : a;
}

struct Shared {
  uint32_t low[kBins], high[kBins];  // sums of weights: the low bits, and the rest
  uint64_t sums[kWarps];
  Best best[kWarps];
  int bin, listed;
  uint64_t before;  // weight of the bins before `bin`
};

// The same in all threads. Every use begins and ends with a barrier.
__device__ uint64_t block_total(uint64_t v, Shared& sh) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(0xffffffffu, v, offset);
  __syncthreads();
  if (threadIdx.x % 32 == 0) sh.sums[threadIdx.x / 32] = v;
  __syncthreads();
  uint64_t total = 0;
  for (int w = 0; w < kWarps; ++w) total += sh.sums[w];
  return total;
}
template <int kCount>
__device__ Best block_best(Best b, Best (&of_warps)[kCount]) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    b = better(b, {__shfl_xor_sync(0xffffffffu, b.value, offset),
                   __shfl_xor_sync(0xffffffffu, b.id, offset)});
  __syncthreads();
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = b;
  __syncthreads();
  Best out = {0, -1};
#pragma unroll
  for (int w = 0; w < kCount; ++w) out = better(out, of_warps[w]);
  return out;
}

// Grows with the value; 0 and -0 are the same.
__device__ __forceinline__ uint32_t ordered(float v) {
  const uint32_t bits = __float_as_uint(v + 0.0f);
  return bits ^ ((bits >> 31) != 0 ? 0xffffffffu : 0x80000000u);
}

__device__ __forceinline__ float gumbel(const SampleRow& row, int id) {
  const PhiloxBlock block = philox4x32(
      row.seed, {static_cast<uint32_t>(row.position), static_cast<uint32_t>(row.position >> 32),
                 static_cast<uint32_t>(row.sample_index), static_cast<uint32_t>(id)});
  return -logf(-logf(uniform_open(block[0])));
}

// A row while it is sampled.
struct Row {
  const float* logits;
  const uint32_t* allowed;
  int V;
  float temperature;  // 0: the logits themselves
  float best;         // of logit / temperature
  // The last one kept: all ids with a larger value, or the same and no larger an id.
  uint32_t last_value = 0;
  int last_id = 0x7fffffff;

  __device__ bool is_allowed(int id) const { return ((allowed[id / 32] >> (id % 32)) & 1u) != 0; }
  __device__ float scaled(float logit) const {
    return temperature > 0 ? logit / temperature : logit;
  }
  __device__ float value(int id) const { return scaled(logits[id]); }
  __device__ bool keeps(float v, int id) const {
    const uint32_t key = ordered(v);
    return key > last_value || (key == last_value && id <= last_id);
  }
  __device__ float likelihood(float v) const { return expf(v - best); }
  __device__ int bin(float v) const {
    return min(max(static_cast<int>((best - v) * kBinsPerUnit), 0), kBins - 1);
  }
};

// visit(id, logit) of this thread's ids that may be drawn, ids ascending. Three loads of 16 bytes
// are in flight where the row allows it: one block reads the row alone, and what it waits for is
// latency. Four do not fit 64 registers.
template <typename Visit>
__device__ __forceinline__ void for_each_logit(const Row& row, const Visit& visit) {
  constexpr int kLoads = 3;
  if (row.V % 4 != 0 || reinterpret_cast<uintptr_t>(row.logits) % 16 != 0) {
    for (int id = threadIdx.x; id < row.V; id += kThreads)
      if (row.is_allowed(id)) visit(id, row.logits[id]);
    return;
  }
  const auto* from = reinterpret_cast<const float4*>(row.logits);
  const int n = row.V / 4;
  for (int first = threadIdx.x; first < n; first += kLoads * kThreads) {
    float4 v[kLoads];
    uint32_t allowed[kLoads];
#pragma unroll
    for (int k = 0; k < kLoads; ++k) {
      const int i = first + k * kThreads;
      if (i >= n) break;
      v[k] = from[i];
      allowed[k] = row.allowed[i / 8] >> (i % 8 * 4);
    }
#pragma unroll
    for (int k = 0; k < kLoads; ++k) {
      const int i = first + k * kThreads;
      if (i >= n) break;
      const float each[4] = {v[k].x, v[k].y, v[k].z, v[k].w};
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if ((allowed[k] >> j & 1u) != 0) visit(4 * i + j, each[j]);
    }
  }
}

enum class Weigh { kCount, kMass };
__device__ __forceinline__ uint32_t weight_of(Weigh what, const Row& row, float v) {
  return what == Weigh::kCount ? 1 : __float2uint_rn(row.likelihood(v) * kMassOne);
}

// The bin in which the running weight reaches `target`; by warp 0.
__device__ void find_bin(uint64_t target, Shared& sh) {
  const int lane = threadIdx.x;
  constexpr int kPerLane = kBins / 32;
  uint64_t mine = 0;
  for (int i = lane * kPerLane; i < (lane + 1) * kPerLane; ++i)
    mine += sh.low[i] + (uint64_t{sh.high[i]} << kLowBits);
  uint64_t upto = mine;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const uint64_t v = __shfl_up_sync(0xffffffffu, upto, offset);
    if (lane >= offset) upto += v;
  }
  uint64_t before = upto - mine;
  if (before >= target || upto < target) return;  // one lane is left
  for (int i = lane * kPerLane;; ++i) {
    const uint64_t w = sh.low[i] + (uint64_t{sh.high[i]} << kLowBits);
    if (before + w >= target) {
      sh.bin = i;
      sh.before = before;
      return;
    }
    before += w;
  }
}

// Moves the row's last kept element to where the running weight, largest value first, reaches
// `share` of the whole (kMass) or `share` itself (kCount).
__device__ void cut(Row& row, Weigh what, double share, int32_t* list, Shared& sh) {
  __syncthreads();
  sh.low[threadIdx.x] = sh.high[threadIdx.x] = 0;
  if (threadIdx.x == 0) sh.listed = 0;
  __syncthreads();
  uint64_t total = 0;
  for_each_logit(row, [&](int id, float logit) {
    const float v = row.scaled(logit);
    if (!row.keeps(v, id)) return;
    const uint32_t w = weight_of(what, row, v);
    if (w == 0) return;
    total += w;
    atomicAdd(&sh.low[row.bin(v)], w & kLowMask);
    if (w > kLowMask) atomicAdd(&sh.high[row.bin(v)], w >> kLowBits);
  });
  total = block_total(total, sh);
  const double wanted = what == Weigh::kCount ? share : ceil(share * static_cast<double>(total));
  const uint64_t target = wanted < 1 ? 1 : static_cast<uint64_t>(wanted);
  if (target >= total) return;  // keeps all: `total` is above 0, the best's weight is in it
  if (threadIdx.x < 32) find_bin(target, sh);
  __syncthreads();

  const int bin = sh.bin;
  uint64_t missing = target - sh.before;
  for_each_logit(row, [&](int id, float logit) {
    const float v = row.scaled(logit);
    if (row.bin(v) == bin && row.keeps(v, id)) list[atomicAdd(&sh.listed, 1)] = id;
  });
  __syncthreads();
  const int n = sh.listed;
  const auto weight_where = [&](auto chosen) {
    uint64_t sum = 0;
    for (int i = threadIdx.x; i < n; i += kThreads) {
      const int id = list[i];
      const float v = row.value(id);
      if (chosen(ordered(v), id)) sum += weight_of(what, row, v);
    }
    return block_total(sum, sh);
  };
  uint32_t last = 0;  // the largest key with enough weight at and above it
  for (uint32_t bit = 1u << 31; bit != 0; bit >>= 1) {
    const uint32_t key = last | bit;
    if (weight_where([&](uint32_t k, int) { return k >= key; }) >= missing) last = key;
  }
  missing -= weight_where([&](uint32_t k, int) { return k > last; });
  int id_bound = 0;  // the smallest id that enough of the equal ones do not exceed
  for (int bit = 1 << 30; bit != 0; bit >>= 1) {
    if (bit > row.V) continue;
    const int below = id_bound + bit - 1;
    if (weight_where([&](uint32_t k, int id) { return k == last && id <= below; }) < missing)
      id_bound += bit;
  }
  row.last_value = last;
  row.last_id = id_bound;
}

// The best of this thread's ids.
__device__ __forceinline__ void keep_best(Best& best, float value, int id) {
  if (value > best.value || best.id < 0) best = {value, id};  // ids come in ascending order
}

__device__ Best draw(const Row& row, const SampleRow& params, Best likeliest, Shared& sh) {
  const float bound = likeliest.value + gumbel(params, likeliest.id);
  Best best = {0, -1};
  for_each_logit(row, [&](int id, float logit) {
    const float v = row.scaled(logit);
    if (v + kLargestGumbel < bound || !row.keeps(v, id)) return;
    if (params.min_p > 0 && row.likelihood(v) < params.min_p) return;
    keep_best(best, v + gumbel(params, id), id);
  });
  return block_best(best, sh.best);
}

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

// --- choose -------------------------------------------------------------------------------------

__global__ __launch_bounds__(kThreads) void choose_kernel(const SampleParams p) {
  __shared__ Shared sh;
  const int r = blockIdx.x;
  const SampleRow params = p.rows[r];
  wait_for_previous_kernel();
  Part mine = {0, -1, 1};
  if (threadIdx.x < p.n_parts) mine = p.parts[r * p.n_parts + threadIdx.x];
  const bool finite = __syncthreads_and(mine.finite) != 0;
  Best best = block_best({mine.value, mine.id}, sh.best);
  if (finite && best.id >= 0 && has_cuts(params, p.V)) {
    const int64_t begin = static_cast<int64_t>(r) * p.V;
    Row row{.logits = has_edits(params) ? p.edited + begin : p.logits + r * p.logits_stride,
            .allowed = p.allowed,
            .V = p.V,
            .temperature = params.temperature,
            .best = best.value};
    int32_t* list = p.lists + begin;
    if (params.top_k > 0 && params.top_k < p.V) cut(row, Weigh::kCount, params.top_k, list, sh);
    if (params.top_p < 1) cut(row, Weigh::kMass, static_cast<double>(params.top_p), list, sh);
    best = draw(row, params, best, sh);
  }
  if (threadIdx.x == 0) {
    p.token_ids[r] = finite ? best.id : -1;
    p.non_finite[r] = finite ? 0 : 1;
  }
}

}  // namespace

void sample(Exec& exec, const SampleArgs& a) {
  const int64_t R = a.logits.shape[0], V = a.logits.shape[1];
  if (V > kMaxIds)
    fail(ErrorKind::kDevice, "sample: a vocabulary of ", with_commas(V), " on CUDA, at most ",
         with_commas(kMaxIds));
  const int64_t n_parts = ceil_div(V, int64_t{kScanIds});
  const Arena::Scope scope(exec.scratch());
  const Tensor parts = exec.scratch().tensor(DType::kU8, {R, n_parts, int64_t{sizeof(Part)}});
  const Tensor edited = exec.scratch().tensor(DType::kF32, {R, V});
  const Tensor lists = exec.scratch().tensor(DType::kI32, {R, V});
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
                            .lists = lists.ptr<int32_t>(),
                            .V = narrow(V),
                            .n_parts = narrow(n_parts)};
  const dim3 grid(static_cast<unsigned>(n_parts), static_cast<unsigned>(R));
  launch(exec, "sample scan", {.grid = grid, .threads = kScanThreads}, scan_kernel, params);
  launch(exec, "sample choose", {.grid = dim3(static_cast<unsigned>(R)), .threads = kThreads},
         choose_kernel, params);
}

}  // namespace dsr::cuda
