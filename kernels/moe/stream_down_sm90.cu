// The second half of moe_experts and moe_with_shared for up to 64 tokens on sm_90:
//   out[t] = sum_k w[t, k] down_e hidden[t, k] + shared[t], e = ids[t, k]
//
// Mapping   stream.cuh over units (16 rows of out, expert), all experts of a tile of rows in one
//           block, the shared ones first: their weights are fetched before the block knows what the
//           router chose. A token's experts are added in ascending order without atomics: a warp
//           adds its own slice of K, weighed, to its own sums of every token; the eight slices are
//           added once, at the end of the tile, and then the shared experts' result, rounded.
// Traffic   the down weights of every wanted expert and of the shared ones, once per 8 tokens.
#include <algorithm>

#include "gemm/stream.cuh"
#include "moe/expert_rows.cuh"
#include "moe/stream_lists.cuh"

namespace dsr::cuda {
namespace {

// Of a block's sums; a multiple of 16.
constexpr int64_t sums_bytes(int T) { return int64_t{kStreamWarps} * T * kStreamSumStride * 4; }

#if __CUDA_ARCH__ >= 900
// kOne: one token, so that expert k of its list is pair k, and its sums stay in registers.
template <bool kOne>
class DownStream {
 public:
  // 16 rows from `row` of an active expert; of the shared ones where `active` is -1.
  struct Unit {
    int active, row;
  };
  __device__ DownStream(const ExpertsCall& c, const ExpertLists& lists, float* sums)
      : c_(c), lists_(lists), sums_(sums), first_(c.shared.F > 0 ? -1 : 0) {}

  __device__ __forceinline__ Unit first(int tile) const { return {first_, tile * 16}; }
  __device__ __forceinline__ int per_tile() const { return lists_.n_active - first_; }
  __device__ __forceinline__ void clear() {
    if constexpr (kOne) {
      sum_[0] = sum_[1] = 0;
    } else {
      for (int i = static_cast<int>(threadIdx.x) % 32; i < warp_sums(); i += 32) mine()[i] = 0;
      __syncwarp();
    }
  }

  __device__ __forceinline__ void next(Unit& unit) const {
    if (++unit.active == lists_.n_active) unit = {first_, unit.row + 16};
  }
  __device__ __forceinline__ const DenseLayout& layout(const Unit& unit) const {
    return unit.active < 0 ? c_.shared.down : c_.down;
  }
  __device__ __forceinline__ RowPair rows(const Unit& unit, int lane) const {
    if (unit.active < 0)
      return row_pair(c_.shared.down, c_.shared.down_rows, c_.shared.down_rows, unit.row,
                      unit.row + 8, c_.D - 1, lane);
    return down_rows(c_, lists_.active[unit.active], unit.row / 16, lane);
  }
  __device__ __forceinline__ int n_tokens(const Unit& unit) const {
    if (kOne || unit.active < 0) return c_.T;
    return lists_.start[unit.active + 1] - lists_.start[unit.active];
  }
  // Rows of hidden are tokens for the shared experts, else pairs.
  __device__ __forceinline__ int row(const Unit& unit, int i) const {
    if constexpr (kOne) return max(unit.active, 0);
    return unit.active < 0 ? i : lists_.pair[lists_.start[unit.active] + i];
  }
  __device__ __forceinline__ const std::byte* x(const Unit& unit, int row) const {
    const bool shared = unit.active < 0;
    return reinterpret_cast<const std::byte*>((shared ? c_.shared.hidden : c_.hidden) +
                                              int64_t{row} * (shared ? c_.shared.F : c_.F));
  }
  __device__ __forceinline__ void finish(const Unit& unit, const float (&acc)[1][4], bool) {
    if (unit.active < 0) return keep_shared(acc);
    if constexpr (kOne) {
      const float weight = lists_.weight[unit.active];
      sum_[0] = fmaf(weight, acc[0][0], sum_[0]);
      sum_[1] = fmaf(weight, acc[0][2], sum_[1]);
    } else {
      add_weighed(unit.active, acc);
    }
    if (unit.active + 1 < lists_.n_active) return;
    if constexpr (kOne) {
      const float sums[1][4] = {{sum_[0], 0, sum_[1], 0}};
      keep_sums(sums_, sums, 1);
    }
    consumers_barrier();
    for (int i = static_cast<int>(threadIdx.x); i < 16 * c_.T; i += kConsumers) {
      const int token = i / 16, column = unit.row + i % 16;
      if (column >= c_.D) continue;
      float value = total(sums_, c_.T, token, i % 16);
      if (first_ < 0) value += shared_;
      store_result(c_, token, column, value);
    }
    consumers_barrier();
    clear();
  }

 private:
  static_assert(16 * kExpertTokens <= kConsumers, "a thread has one result of the shared experts");

  __device__ __forceinline__ int warp_sums() const { return c_.T * kStreamSumStride; }
  __device__ __forceinline__ float* mine() const {
    return sums_ + static_cast<int>(threadIdx.x) / 32 * warp_sums();
  }
  // What linear() would have stored of the shared experts.
  __device__ __forceinline__ void keep_shared(const float (&acc)[1][4]) {
    keep_sums(sums_, acc, c_.T);
    consumers_barrier();
    const int i = static_cast<int>(threadIdx.x);
    if (i / 16 < c_.T) shared_ = to_float(from_float<bf16>(total(sums_, c_.T, i / 16, i % 16)));
    consumers_barrier();
    clear();
  }
  // The next expert may have a token in another lane.
  __device__ __forceinline__ void add_weighed(int a, const float (&acc)[1][4]) {
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    const int start = lists_.start[a], n = lists_.start[a + 1] - start;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int at = 2 * t + i;
      if (at >= n) continue;
      float* sum = mine() + lists_.token[start + at] * kStreamSumStride + g;
      const float weight = lists_.weight[start + at];
      sum[0] = fmaf(weight, acc[0][i], sum[0]);
      sum[8] = fmaf(weight, acc[0][i + 2], sum[8]);
    }
    __syncwarp();
  }

  const ExpertsCall& c_;
  const ExpertLists& lists_;
  float* sums_;
  const int first_;
  float shared_ = 0;
  float sum_[2] = {};  // kOne: of rows g and g + 8
};

// All of hidden.
struct StagedHidden {
  StagedX shared, routed;
  template <typename Job>
  __device__ __forceinline__ StagedUnitX at(const Job& job, const typename Job::Unit& unit,
                                            int lane) const {
    return {unit.active < 0 ? shared : routed, job.n_tokens(unit), lane,
            [&](int i) { return job.row(unit, i); }};
  }
};
#endif

// Of shared memory, for the two of StagedHidden.
__host__ __device__ int64_t staged_shared_bytes(const ExpertsCall& c) {
  return c.shared.F > 0 ? staged_bytes(c.T, c.shared.down.n_steps) : 0;
}
__host__ __device__ int64_t staged_routed_bytes(const ExpertsCall& c) {
  return staged_bytes(c.T * c.K, c.down.n_steps);
}

template <typename W, bool kOne>
__global__ __launch_bounds__(kStreamThreads, kStreamBlocksPerSm<W, 1, kOne>) void down_kernel(
    const __grid_constant__ ExpertsCall c) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 shared[];
  auto& ring = *reinterpret_cast<StreamRing*>(shared);
  auto* sums = reinterpret_cast<float*>(&ring + 1);
  std::byte* const x = reinterpret_cast<std::byte*>(sums) + sums_bytes(c.T);
  std::byte* const memory = x + (kOne ? staged_shared_bytes(c) + staged_routed_bytes(c) : 0);
  ExpertLists lists;
  init_ring(ring, W::kScaled, c.down.ue8m0);
  const int64_t n = (c.D + 15) / 16, b = blockIdx.x;
  const auto first = static_cast<int>(b * n / gridDim.x);
  const auto n_tiles = static_cast<int>((b + 1) * n / gridDim.x) - first;
  using Job = DownStream<kOne>;
  Job job(c, lists, sums);
  const int n_known = c.shared.F > 0 ? 1 : 0;  // units whose weights are wanted in any case
  if (threadIdx.x >= kConsumers) {
    StreamProducer<W, Job> producer(job, ring);
    lists.n_active = 1;  // of any tile the shared experts are the first unit
    producer.go_to(job.first(first));
    producer.run(n_known, kStreamStages);
    // What the router chose is older than the kernel before, which started this one.
    lists = make_lists_for_consumers(c, memory);
    producer.run(n_known, 1 << 30);
    producer.go_to({0, first * 16});
    producer.run(n_tiles * job.per_tile(), 1 << 30);
    return;
  }
  wait_for_previous_kernel();
  job.clear();
  RingPlace place;
  lists.n_active = 1;
  const typename Job::Unit routed = {0, first * 16};
  if constexpr (kOne) {
    const StagedHidden hidden = {
        .shared = staged_in(x, c.T, c.shared.down.n_steps),
        .routed = staged_in(x + staged_shared_bytes(c), c.T * c.K, c.down.n_steps)};
    Stager<2> shared(hidden.shared, reinterpret_cast<const std::byte*>(c.shared.hidden),
                     int64_t{c.shared.F} * 2, c.shared.down.n_steps);
    Stager<5> routed_x(hidden.routed, reinterpret_cast<const std::byte*>(c.hidden),
                       int64_t{c.F} * 2, c.down.n_steps);
    while (!routed_x.done() || (n_known > 0 && !shared.done())) {
      if (n_known > 0) shared.load();
      routed_x.load();
      if (n_known > 0) shared.store();
      routed_x.store();
    }
    consumers_barrier();
    consume<W, 1>(job, ring, place, job.first(first), n_known, hidden);
    lists = lists_of_producers(c, memory);
    consume<W, 1>(job, ring, place, routed, n_tiles * job.per_tile() - n_known, hidden);
  } else {
    using X = XAhead<W, Job>;
    consume<W, 1>(job, ring, place, job.first(first), n_known, X(job, job.first(first), n_known));
    lists = lists_of_producers(c, memory);
    const int n_routed = n_tiles * job.per_tile() - n_known;
    consume<W, 1>(job, ring, place, routed, n_routed, X(job, routed, n_routed));
  }
#endif
}

// One token's hidden rows are staged.
int64_t shared_bytes(const ExpertsCall& c, bool one) {
  return int64_t{sizeof(StreamRing)} + sums_bytes(c.T) + stream_lists_bytes(c) +
         (one ? staged_shared_bytes(c) + staged_routed_bytes(c) : 0);
}

template <typename W, bool kOne>
void run(Exec& exec, const ExpertsCall& c) {
  const int64_t blocks =
      stream_blocks((c.D + 15) / 16, exec.cuda().n_sms(), kStreamBlocksPerSm<W, 1, kOne>);
  launch(exec, "moe_experts",
         {.grid = dim3(static_cast<unsigned>(blocks)),
          .threads = kStreamThreads,
          .shared_bytes = std::max(shared_bytes(c, kOne), kAloneBytes)},
         down_kernel<W, kOne>, c);
}

}  // namespace

void stream_down(Exec& exec, const ExpertsCall& c) {
  if (!c.down.fp8)
    run<Bf16Weight, false>(exec, c);
  else if (c.T == 1 && shared_bytes(c, true) <= kAloneBytes)
    run<Fp8Weight, true>(exec, c);
  else
    run<Fp8Weight, false>(exec, c);
}

}  // namespace dsr::cuda
