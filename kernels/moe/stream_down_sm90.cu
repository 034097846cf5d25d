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
    for (int i = static_cast<int>(threadIdx.x) % 32; i < warp_sums(); i += 32) mine()[i] = 0;
    __syncwarp();
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
  __device__ __forceinline__ const std::byte* x(const Unit& unit) const {
    return reinterpret_cast<const std::byte*>(unit.active < 0 ? c_.shared.hidden : c_.hidden);
  }
  __device__ __forceinline__ StreamTokens<1> tokens(const Unit& unit, int lane) const {
    StreamTokens<1> out;
    const int F = unit.active < 0 ? c_.shared.F : c_.F;
    const int64_t row_bytes = int64_t{F} * 2;
    if (unit.active < 0) {
      out.n = c_.T;
      const int token = lane / 4;
      out.offset[0] = static_cast<uint32_t>((token < c_.T ? token : 0) * row_bytes);
    } else {
      find_tokens<1>(
          lists_, unit.active, lane, row_bytes, [&](int i) { return lists_.pair[i]; }, out);
    }
    return out;
  }
  __device__ __forceinline__ void finish(const Unit& unit, const float (&acc)[1][4], bool) {
    if (unit.active < 0) return keep_shared(acc);
    add_weighed(unit.active, acc);
    if (unit.active + 1 < lists_.n_active) return;
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
};
#endif

template <typename W>
__global__ __launch_bounds__(kStreamThreads, kStreamBlocksPerSm<1>) void down_kernel(
    const __grid_constant__ ExpertsCall c) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 shared[];
  auto& ring = *reinterpret_cast<StreamRing*>(shared);
  auto* sums = reinterpret_cast<float*>(&ring + 1);
  auto* memory = reinterpret_cast<std::byte*>(sums) + sums_bytes(c.T);
  ExpertLists lists;
  init_ring(ring, W::kScaled, c.down.ue8m0);
  const int64_t n = (c.D + 15) / 16, b = blockIdx.x;
  const auto first = static_cast<int>(b * n / gridDim.x);
  const auto n_tiles = static_cast<int>((b + 1) * n / gridDim.x) - first;
  using Job = DownStream;
  Job job(c, lists, sums);
  const int n_known = c.shared.F > 0 ? 1 : 0;  // units whose weights are wanted in any case
  if (threadIdx.x >= kConsumers) {
    StreamProducer<W, Job> producer(job, ring);
    lists.n_active = 1;  // of any tile the shared experts are the first unit
    producer.go_to(job.first(first));
    producer.run(n_known, kStreamStages);
    wait_for_previous_kernel();
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
  consume<W, 1>(job, ring, place, job.first(first), n_known);
  lists = lists_of_producers(c, memory);
  consume<W, 1>(job, ring, place, {0, first * 16}, n_tiles * job.per_tile() - n_known);
#endif
}

template <typename W>
void run(Exec& exec, const ExpertsCall& c) {
  const int64_t blocks = stream_blocks((c.D + 15) / 16, exec.cuda().n_sms());
  launch(exec, "moe_experts",
         {.grid = dim3(static_cast<unsigned>(blocks)),
          .threads = kStreamThreads,
          .shared_bytes = int64_t{sizeof(StreamRing)} + sums_bytes(c.T) + stream_lists_bytes(c)},
         down_kernel<W>, c);
}

}  // namespace

void stream_down(Exec& exec, const ExpertsCall& c) {
  c.down.fp8 ? run<Fp8Weight>(exec, c) : run<Bf16Weight>(exec, c);
}

}  // namespace dsr::cuda
