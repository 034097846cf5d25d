// The second half of moe_experts for up to 64 tokens:
//   out[t] = sum_k w[t, k] down_e hidden[t, k] + addend[t], e = ids[t, k]
//
// Mapping   skinny.cuh over units (16 rows of out, wanted expert), all experts of a tile of rows in
//           one block: so a token's experts are added in ascending order without atomics. A warp
//           adds its own slice of K, weighed, to its own sums of every token; the eight slices are
//           added once, at the end of the tile.
// Traffic   the down weights of every wanted expert, once.
#include "gemm/skinny.cuh"
#include "moe/expert_lists.cuh"
#include "moe/expert_rows.cuh"

namespace dsr::cuda {
namespace {

template <int kTiles>
class DownJob {
 public:
  static constexpr int kRowsPerUnit = 16;
  // Units are counted from the block's first tile of 16 rows.
  __device__ DownJob(const ExpertsCall& c, const ExpertLists& lists, float* sums, int first_tile)
      : c_(c), lists_(lists), sums_(sums), first_tile_(first_tile) {
    clear();
  }

  __device__ __forceinline__ const DenseLayout& layout() const { return c_.down; }
  __device__ __forceinline__ RowPair rows(int unit, int lane) const {
    const int tile = tile_of(unit);
    return down_rows(c_, lists_.active[unit - tile * lists_.n_active], first_tile_ + tile, lane);
  }
  __device__ __forceinline__ UnitTokens<kTiles> tokens(int unit, int lane) const {
    UnitTokens<kTiles> out;
    find_tokens<kTiles>(
        lists_, unit - tile_of(unit) * lists_.n_active, lane, int64_t{c_.F} * 2,
        [&](int i) { return lists_.pair[i]; }, out);
    return out;
  }
  __device__ __forceinline__ void finish(int unit, const float (&acc)[kTiles][4]) {
    const int tile = tile_of(unit), a = unit - tile * lists_.n_active;
    add_weighed(a, acc);
    if (a + 1 < lists_.n_active) return;
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < 16 * c_.T; i += kSkinnyThreads) {
      const int token = i / 16, column = (first_tile_ + tile) * 16 + i % 16;
      if (column >= c_.D) continue;
      float value = sum_of_warps<kTiles>(sums_, token, i % 16);
      store_result(c_, token, column, value);
    }
    __syncthreads();
    clear();
  }

 private:
  static constexpr int kWarpSums = kTiles * 8 * kSumStride;

  __device__ __forceinline__ int tile_of(int unit) const {
    return unit < lists_.n_active ? 0 : unit / lists_.n_active;
  }
  __device__ __forceinline__ float* mine() const {
    return sums_ + static_cast<int>(threadIdx.x) / 32 * kWarpSums;
  }
  __device__ __forceinline__ void clear() {
    for (int i = static_cast<int>(threadIdx.x) % 32; i < kWarpSums; i += 32) mine()[i] = 0;
    __syncwarp();
  }
  // The next expert may have a token in another lane.
  __device__ __forceinline__ void add_weighed(int a, const float (&acc)[kTiles][4]) {
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    const int start = lists_.start[a], n = lists_.start[a + 1] - start;
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      if (j * 8 >= n) break;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int at = j * 8 + 2 * t + i;
        if (at >= n) continue;
        float* sum = mine() + lists_.token[start + at] * kSumStride + g;
        const float weight = lists_.weight[start + at];
        sum[0] = fmaf(weight, acc[j][i], sum[0]);
        sum[8] = fmaf(weight, acc[j][i + 2], sum[8]);
      }
    }
    __syncwarp();
  }

  const ExpertsCall& c_;
  const ExpertLists& lists_;
  float* sums_;
  int first_tile_;
};

template <typename W, int kTiles>
__global__ __launch_bounds__(kSkinnyThreads,
                             2) void down_kernel(const __grid_constant__ ExpertsCall c) {
  extern __shared__ uint4 shared[];
  auto& ring = *reinterpret_cast<WeightRing*>(shared);
  auto* sums = reinterpret_cast<float*>(&ring + 1);
  wait_for_previous_kernel();
  const ExpertLists lists = make_lists<kTiles * 8, kSkinnyThreads>(
      c, static_cast<int>(threadIdx.x), reinterpret_cast<std::byte*>(sums) + sums_bytes<kTiles>(),
      reinterpret_cast<std::byte*>(&ring), [] { __syncthreads(); });
  const int64_t n = (c.D + 15) / 16, b = blockIdx.x;
  const int first = static_cast<int>(b * n / gridDim.x);
  const int end = static_cast<int>((b + 1) * n / gridDim.x);
  DownJob<kTiles> job(c, lists, sums, first);
  go_through_units<W, kTiles>(job, ring, reinterpret_cast<const std::byte*>(c.hidden), true, 0,
                              (end - first) * lists.n_active, [] {});
}

template <typename W, int kTiles>
void run(Exec& exec, const ExpertsCall& c) {
  launch(exec, "moe_experts",
         {.grid = dim3(static_cast<unsigned>(skinny_blocks((c.D + 15) / 16, exec.cuda().n_sms()))),
          .threads = kSkinnyThreads,
          .shared_bytes = int64_t{sizeof(WeightRing)} + sums_bytes<kTiles>() +
                          lists_bytes<kTiles * 8>(c.T, c.K, c.E)},
         down_kernel<W, kTiles>, c);
}

}  // namespace

void skinny_down(Exec& exec, const ExpertsCall& c) {
  with_tiles(c.down.fp8, c.T,
             [&](auto weight, auto tiles) { run<decltype(weight), tiles.value>(exec, c); });
}

}  // namespace dsr::cuda
