// The first half of moe_experts for up to 64 tokens: hidden[p] = silu(gate_e x) * (up_e x) for
// every pair p = (token, expert).
//
// Mapping   skinny.cuh over units (wanted expert, 8 rows of gate and the same 8 of up); the tokens
//           of an expert are the columns of the product. All wanted experts are one range of units,
//           so a block has work whatever the router chose.
// Traffic   the gate and up weights of every wanted expert, once.
#include <algorithm>

#include "gemm/skinny.cuh"
#include "moe/expert_lists.cuh"
#include "moe/expert_rows.cuh"

namespace dsr::cuda {
namespace {

template <int kTiles>
constexpr int64_t kSumsBytes = kSumBuffers<kTiles>* sums_bytes<kTiles>();

template <int kTiles>
class GateUpJob {
 public:
  static constexpr int kRowsPerUnit = 8;
  __device__ GateUpJob(const ExpertsCall& c, const ExpertLists& lists, float* sums)
      : c_(c), lists_(lists), sums_(sums), per_expert_((c.F + 7) / 8) {}

  __device__ __forceinline__ int n_units() const { return lists_.n_active * per_expert_; }
  __device__ __forceinline__ const DenseLayout& layout() const { return c_.gate_up; }
  __device__ __forceinline__ RowPair rows(int unit, int lane) const {
    const int a = unit / per_expert_;
    return gate_up_rows(c_, lists_.active[a], unit - a * per_expert_, lane);
  }
  __device__ __forceinline__ UnitTokens<kTiles> tokens(int unit, int lane) const {
    UnitTokens<kTiles> out;
    find_tokens<kTiles>(
        lists_, unit / per_expert_, lane, c_.x_stride_bytes, [&](int i) { return lists_.token[i]; },
        out);
    return out;
  }
  __device__ __forceinline__ void finish(int unit, const float (&acc)[kTiles][4]) {
    const int a = unit / per_expert_, first_row = (unit - a * per_expert_) * 8;
    const int start = lists_.start[a], n = lists_.start[a + 1] - start;
    store_sums(sums_, acc, n);
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < 8 * n; i += kSkinnyThreads) {
      const int token = i / 8, row = i % 8;
      if (first_row + row >= c_.F) continue;
      const float gate = sum_of_warps<kTiles>(sums_, token, row);
      const float up = sum_of_warps<kTiles>(sums_, token, row + 8);
      c_.hidden[int64_t{lists_.pair[start + token]} * c_.F + first_row + row] =
          from_float<bf16>(silu(gate) * up);
    }
    if constexpr (kSumBuffers<kTiles> == 1) {
      __syncthreads();
    } else {  // the other buffer was read before the barrier above
      odd_ = !odd_;
      sums_ += odd_ ? sums_bytes<kTiles>() / 4 : -sums_bytes<kTiles>() / 4;
    }
  }

 private:
  const ExpertsCall& c_;
  const ExpertLists& lists_;
  float* sums_;
  int per_expert_;
  bool odd_ = false;
};

template <typename W, int kTiles>
__global__ __launch_bounds__(kSkinnyThreads,
                             2) void gate_up_kernel(const __grid_constant__ ExpertsCall c) {
  extern __shared__ uint4 shared[];
  auto& ring = *reinterpret_cast<WeightRing*>(shared);
  auto* sums = reinterpret_cast<float*>(&ring + 1);
  wait_for_previous_kernel();  // which weights are wanted is what it wrote
  const ExpertLists lists = make_lists<kTiles * 8, kSkinnyThreads>(
      c, static_cast<int>(threadIdx.x), reinterpret_cast<std::byte*>(sums) + kSumsBytes<kTiles>,
      reinterpret_cast<std::byte*>(&ring), [] { __syncthreads(); });
  GateUpJob<kTiles> job(c, lists, sums);
  const int64_t n = job.n_units(), b = blockIdx.x;
  go_through_units<W, kTiles>(job, ring, c.x, c.touch_x, static_cast<int>(b * n / gridDim.x),
                              static_cast<int>((b + 1) * n / gridDim.x), [] {});
}

template <typename W, int kTiles>
void run(Exec& exec, const ExpertsCall& c) {
  const int64_t most = std::min<int64_t>(c.E, int64_t{c.T} * c.K) * ((c.F + 7) / 8);
  launch(exec, "moe_experts",
         {.grid = dim3(static_cast<unsigned>(skinny_blocks(most, exec.cuda().n_sms()))),
          .threads = kSkinnyThreads,
          .shared_bytes = int64_t{sizeof(WeightRing)} + kSumsBytes<kTiles> +
                          lists_bytes<kTiles * 8>(c.T, c.K, c.E)},
         gate_up_kernel<W, kTiles>, c);
}

}  // namespace

void skinny_gate_up(Exec& exec, const ExpertsCall& c) {
  with_tiles(c.gate_up.fp8, c.T,
             [&](auto weight, auto tiles) { run<decltype(weight), tiles.value>(exec, c); });
}

}  // namespace dsr::cuda
