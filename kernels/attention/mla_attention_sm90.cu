// mla_attention on sm_90, for the rows of released models as bf16. Definition and shapes:
// ops/mla.h; the products and the softmax: tiled_attention.cuh.
//
// Mapping   as there. The copy engine brings the rows, of 1,152 bytes each; every warp starts some,
//           since starting one takes it 100 cycles.
// Memory    one sequence: two tiles (74 KB) ahead, a block per SM, beside which one of the next
//           kernel's fits. Several: one tile ahead and two blocks per SM.
#include "attention/mla_kernels.h"
#include "attention/tiled_attention.cuh"

namespace dsr::cuda {
namespace {

template <int kStageCount>
struct Shape : MlaShape {
  static constexpr int kStages = kStageCount;
};
constexpr uint32_t kRowBytes = MlaShape::kKeyWidth * 2;
constexpr int kWarpRows = MlaShape::kTile / kTiledWarps;  // whose copies a warp starts
constexpr int kWarpQueryRows = kRows / kTiledWarps;

template <typename Shape>
struct alignas(128) MlaMemory : TiledMemory<Shape> {
  uint64_t full[Shape::kStages], query_full;
};

#if __CUDA_ARCH__ >= 900

// One block's work over its shared memory. Barriers are waited for by all threads, so that each
// knows which phase they are in.
template <typename Shape>
class MlaBlock {
 public:
  __device__ MlaBlock(const TiledParams& p, MlaMemory<Shape>& memory) : p_(p), memory_(memory) {
    if (threadIdx.x == 0) {
      for (uint64_t& barrier : memory_.full) init_barrier(&barrier, 1);
      init_barrier(&memory_.query_full, 1);
      publish_barriers();
    }
    __syncthreads();
  }

  __device__ __forceinline__ void attend(const TiledWork& w) {
    const int n_tiles = (w.end - w.begin + Shape::kTile - 1) / Shape::kTile;
    // Tokens before `known` may be read before the kernel before has ended.
    const int known = max(w.newest, 0);
#pragma unroll 1
    for (int i = 0; i < min(kAhead, n_tiles); ++i) {
      expect_tile(i);
      fetch_rows(w, i, 0, known);
    }
    TiledSoftmax<Shape> softmax(p_, w);
    wait_for_previous_kernel();
    fetch_query(w);
#pragma unroll 1
    for (int i = 0; i < min(kAhead, n_tiles); ++i) fetch_rows(w, i, known, w.end);

    wait(&memory_.query_full, kStages);
    const int lane = static_cast<int>(threadIdx.x) % 32;
    uint32_t q[T::kKeySteps][4];
#pragma unroll
    for (int k = 0; k < T::kKeySteps; ++k)
      load_matrices(q[k], memory_.stages[kStages - 1] + lane % 16 * T::kKeyStride +
                              (first_key_step<Shape>() + k) * 16 + lane / 16 * 8);

    TiledOutput<Shape> out;
#pragma unroll 1
    for (int i = 0; i < n_tiles; ++i) {
      const bf16* keys = memory_.stages[i % kStages];
      wait(&memory_.full[i % kStages], i % kStages);
      score_tile<Shape>(q, keys, memory_.exchange);
      __syncthreads();  // the scores are there, and everyone is done with tile i - 1, or the query
      if (i + kAhead < n_tiles) {
        expect_tile(i + kAhead);
        fetch_rows(w, i + kAhead, 0, w.end);
      }
      softmax.weigh_tile(w.begin + i * Shape::kTile, memory_.exchange);
      __syncthreads();
      out.add_tile(memory_.exchange, keys);
    }
    softmax.finish(memory_.exchange);
    __syncthreads();
    out.store(p_, w, memory_.exchange);
  }

 private:
  using T = Tiled<Shape>;
  static constexpr int kStages = Shape::kStages, kAhead = kStages - 1;

  __device__ __forceinline__ void wait(uint64_t* barrier, int i) {
    wait_barrier(barrier, parities_ >> i & 1);
    parities_ ^= 1u << i;
  }
  __device__ __forceinline__ void expect_tile(int i) {
    if (threadIdx.x == 0) arrive_expecting(&memory_.full[i % kStages], Shape::kTile * kRowBytes);
  }
  // The rows of tile i that hold tokens [first, end). Past the end of the work stands its last
  // token again: a weight of zero takes a value that is finite.
  __device__ __forceinline__ void fetch_rows(const TiledWork& w, int i, int first, int end) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (lane >= kWarpRows) return;
    const int r = static_cast<int>(threadIdx.x) / 32 * kWarpRows + lane;
    const int token = min(w.begin + i * Shape::kTile + r, w.end - 1);
    if (token < first || token >= end) return;
    const int32_t* table = p_.batch.block_table + w.sequence * p_.batch.block_table_stride;
    constexpr int kPage = static_cast<int>(kPageTokens);
    const std::byte* row =
        p_.pages + table[token / kPage] * p_.page_bytes + token % kPage * int64_t{kRowBytes};
    copy_bulk(memory_.stages[i % kStages] + r * T::kKeyStride, row, kRowBytes,
              &memory_.full[i % kStages]);
  }
  // Through the last stage. What lies in rows that there are not stays in rows of the products that
  // nobody stores.
  __device__ __forceinline__ void fetch_query(const TiledWork& w) {
    if (threadIdx.x == 0)
      arrive_expecting(&memory_.query_full,
                       static_cast<uint32_t>(w.n_tokens * w.n_heads) * kRowBytes);
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (lane >= kWarpQueryRows) return;
    const int r = static_cast<int>(threadIdx.x) / 32 * kWarpQueryRows + lane;
    const int heads_in_row = min(p_.heads_per_kv_head, kRows);
    const int token = r / heads_in_row, head = r % heads_in_row;
    if (token < w.n_tokens && head < w.n_heads)
      copy_bulk(
          memory_.stages[kStages - 1] + r * T::kKeyStride,
          p_.q + (w.first_token + token) * p_.q_token_stride + (w.head + head) * p_.q_head_stride,
          kRowBytes, &memory_.query_full);
  }

  const TiledParams& p_;
  MlaMemory<Shape>& memory_;
  uint32_t parities_ = 0;  // of the next phase of each stage, then of the query
};

#endif

template <typename Shape>
__global__ __launch_bounds__(kTiledThreads,
                             2) void mla_attention_kernel(const __grid_constant__ TiledParams p) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 shared[];
  auto& memory = *reinterpret_cast<MlaMemory<Shape>*>(shared);
  const QueryRange range = query_range(p.batch, static_cast<int>(blockIdx.y));
  TiledWork w = head_work(p, static_cast<int>(blockIdx.y));
  const bool decode = range.count == 1;
  const int split = static_cast<int>(blockIdx.x), width = split_tokens(range.n);
  w.begin = decode ? split * width : 0;
  if (decode && w.begin >= range.n) return;
  w.split = decode && range.n > width ? split : -1;
  w.newest = range.n - 1;  // -1 where nothing of a sequence may be read early
  MlaBlock<Shape> block(p, memory);

  // One row of the batch, or every gridDim.x-th group of a prompt's rows.
  const int group_tokens = kRows / min(p.heads_per_kv_head, kRows);
  for (int i = decode ? 0 : split * group_tokens; i < range.count;
       i += static_cast<int>(gridDim.x) * group_tokens) {
    w.first_token = range.first + i;
    w.n_tokens = min(group_tokens, range.count - i);
    w.end = min(range.n, w.begin + width);
    if (!decode) {
      w.end = 0;
      for (int k = 0; k < w.n_tokens; ++k)
        w.end = max(w.end, p.batch.positions[w.first_token + k] + 1);
      __syncthreads();  // everyone is done with the tiles and sums of the rows before
    }
    block.attend(w);
  }
#endif
}

template <int kStages>
void run(Exec& exec, const TiledParams& p, int64_t n_tokens, int64_t n_sequences) {
  launch(exec, "mla_attention",
         {.grid = tiled_grid(exec, p, n_tokens, n_sequences, 1),
          .threads = kTiledThreads,
          .shared_bytes = sizeof(MlaMemory<Shape<kStages>>)},
         mla_attention_kernel<Shape<kStages>>, p);
}

}  // namespace

void mla_attention_sm90(Exec& exec, const TiledParams& p, int64_t n_tokens, int64_t n_sequences) {
  n_sequences == 1 ? run<3>(exec, p, n_tokens, n_sequences)
                   : run<2>(exec, p, n_tokens, n_sequences);
}

}  // namespace dsr::cuda
