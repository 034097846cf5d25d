// mla_attention of decode rows that have no more pages than there are blocks, as in steps of one
// sequence or a few: the parts and the bits of mla_decode_sm90.cu.
//
// Mapping   grid (groups of 16 heads, pages, rows): a block does one page, which is a part, and
//           ends; sixteen warps do all of it, as mla_tile.cuh says. Where a row has half as many
//           pages as blocks, two do a page: each all of the scores and half of the values' columns.
// Memory    116 KB and 64 registers a thread: a block is there, with its page, while the kernels
//           before still run. 114 KB are used; with half of an SM's, two blocks would share one. As
//           fp8 155 KB; what was in the cache before the step is a tile before they have ended.
// Traffic   every row once per 16 heads; 2 * 4 bytes * 512 per head and page.
#pragma once

#include "attention/mla_merge.cuh"
#include "attention/mla_tile.cuh"

namespace dsr::cuda {

template <bool kFp8>
struct PageMemory {
  MlaTile tile;
  MlaTileWork work;
  float max[kMlaHeads];
  uint64_t full;

  __device__ __forceinline__ MlaTile& fetched() { return tile; }
};
template <>
struct PageMemory<true> : PageMemory<false> {
  MlaCodePage codes;

  __device__ __forceinline__ MlaCodePage& fetched() { return codes; }
};
template <bool kFp8>
constexpr int kPageRowBytes = kFp8 ? MlaCodes::kRowBytes : kMlaRowBytes;

constexpr int kPageBlocks = 2;  // that do a page where there are blocks enough
template <bool kFp8>
constexpr int64_t kPageSharedBytes = kFp8 ? sizeof(PageMemory<true>) : 116 * 1024;
static_assert(sizeof(PageMemory<false>) <= kPageSharedBytes<false>);

#if __CUDA_ARCH__ >= 900

// What of a row's page there is. By a warp, the same in all lanes.
struct RowPage {
  int token;     // of the batch
  int n_tokens;  // of the page that the row sees
  int n_known;   // of them, those that were in the cache before the step
  bool only;     // the row has no other page
  int block;     // of the cache
  int page;
  int share;  // of the values' columns, 0 .. kPageBlocks - 1; -1: all of them

  // By block y of those that the row has.
  __device__ __forceinline__ RowPage(const DecodeRows& rows, int r, int y, int lane) {
    // Mostly sequence r has token r alone. All that says so, and what follows then, in one load.
    const PagedBatch& b = rows.batch;
    const int32_t* from = lane < 2 ? b.cu_seqlens_q + r + lane : b.positions + r;
    if (lane >= 3)
      from = b.block_table + r * b.block_table_stride +
             (lane == 3 ? min(y, rows.max_pages - 1) : y / kPageBlocks);
    const int v = *from;
    const auto from_lane = [&](int k) { return __shfl_sync(0xffffffffu, v, k); };
    DecodeRow row = {r, r, from_lane(2) + 1, from_lane(2)};
    const bool is_plain = from_lane(0) == r && from_lane(1) == r + 1;
    if (!is_plain) row = decode_row(rows, r);
    const bool shared = kPageBlocks * RowSplit(row.n).pages <= static_cast<int>(gridDim.y);
    page = shared ? y / kPageBlocks : y, share = shared ? y % kPageBlocks : -1;
    block = shared ? from_lane(4) : from_lane(3);
    if (!is_plain)
      block = b.block_table[row.sequence * b.block_table_stride + min(page, rows.max_pages - 1)];
    token = row.token;
    n_tokens = min(kMlaTile, row.n - page * kMlaTile);
    n_known = max(0, min(n_tokens, row.known - page * kMlaTile));
    only = row.n <= kMlaTile;
  }
};

// Every page of the rows before is an item (mla_split.cuh).
__device__ __forceinline__ int pages_before(const DecodeRows& rows, int r, int lane) {
  int pages = 0;
#pragma unroll 1
  for (int k = lane; k < r; k += 32) pages += RowSplit(decode_row(rows, k).n).pages;
  return __reduce_add_sync(0xffffffffu, pages);
}

// The pieces of 16 bytes that come behind the dependency wait: of the query, of which a warp
// fetches a head, and of the step's own rows, mostly one.
template <bool kFp8>
class LatePieces {
  static constexpr int kQueryPieces = kMlaKeyWidth * 2 / 16;  // of a head
  static constexpr int kPieces = kPageRowBytes<kFp8> / 16;    // of a row
  static_assert(kQueryPieces > 64 && kQueryPieces <= 96);

 public:
  static constexpr int kRows = kMlaTileThreads / kPieces;  // that fetch() has room for

  __device__ __forceinline__ LatePieces(const bf16* query, const std::byte* page,
                                        const RowPage& here, PageMemory<kFp8>& m, int warp,
                                        int lane) {
    query_ = reinterpret_cast<const std::byte*>(query) + lane * 16;
    place_ = shared_address(&m.work.query[warp][lane * 8]);
    has_last_ = lane < kQueryPieces - 64;
    const auto i = static_cast<int>(threadIdx.x);
    row_ = row_piece(page, here.n_known, i), row_place_ = row_place(m, here.n_known, i);
    has_row_ = i < (here.n_tokens - here.n_known) * kPieces;
    // Not put together anew behind the wait.
    asm volatile("" : "+l"(query_), "+r"(place_), "+l"(row_), "+r"(row_place_));
  }
  __device__ __forceinline__ void fetch() const {
    copy_async_16(place_, query_);
    copy_async_16(place_ + 32 * 16, query_ + 32 * 16);
    if (has_last_) copy_async_16(place_ + 64 * 16, query_ + 64 * 16);
    if (has_row_) copy_async_16(row_place_, row_);
  }
  // Of more rows than kRows, which a sequence's several tokens can be.
  __device__ __forceinline__ void fetch_more(const std::byte* page, const RowPage& here,
                                             PageMemory<kFp8>& m) const {
    const int n = (here.n_tokens - here.n_known) * kPieces;
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x) + kMlaTileThreads; i < n; i += kMlaTileThreads)
      copy_async_16(row_place(m, here.n_known, i), row_piece(page, here.n_known, i));
  }

 private:
  __device__ __forceinline__ static const std::byte* row_piece(const std::byte* page, int first,
                                                               int i) {
    return page + first * kPageRowBytes<kFp8> + i * 16;
  }
  __device__ __forceinline__ static uint32_t row_place(PageMemory<kFp8>& m, int first, int i) {
    return shared_address(m.fetched().row(first + i / kPieces) + i % kPieces * 16);
  }

  const std::byte *query_, *row_;
  uint32_t place_, row_place_;
  bool has_last_, has_row_;
};

// The keys of a warp's places over its quarter of the width, as operands.
struct HeldKeys {
  uint32_t b[kMlaKeySteps][4];

  // Whether the token is at one of these places.
  __device__ __forceinline__ static bool reads(int token, int warp) {
    return token % kMlaRun / 2 == warp % 4;
  }
  __device__ __forceinline__ void load(const MlaTile& tile, int warp, int lane) {
    const std::byte* from = first_key(tile, warp, lane);
#pragma unroll
    for (int k = 0; k < kMlaKeySteps; ++k) load_matrices(b[k], from + k * 32);
  }
};

// What was in the cache before the step, by the first warp.
template <bool kFp8>
__device__ __forceinline__ void fetch_known(const std::byte* page, int n_known, PageMemory<kFp8>& m,
                                            int lane) {
  constexpr int kRowBytes = kPageRowBytes<kFp8>;
  if (lane == 0) {
    init_barrier(&m.full, 1);
    publish_barriers();
    arrive_expecting(&m.full, static_cast<uint32_t>(n_known * kRowBytes));
  }
  __syncwarp();
  const int from = lane * kMlaRun, n = min(n_known - from, kMlaRun);
  if (n <= 0) return;
  copy_page_rows(m.fetched().row(from), page + from * kRowBytes, n * kRowBytes, &m.full);
}

// Stores the part, or the result of a row that has no other one: kTiles * 8 columns from `column`
// on. A lane has sums of heads g and g + 8, g = lane / 4.
template <int kTiles>
__device__ __forceinline__ void store_result(const MlaDecode& p, const MlaSums<kTiles>& sums,
                                             int token, int column, int lane) {
  const int head = static_cast<int>(blockIdx.x) * kMlaHeads + lane / 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (head + 8 * i >= p.parts.H) return;
    const float scale = 1 / sums[kTiles][2 * i];
    bf16* to = p.out.row(token, head + 8 * i) + column + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
      *reinterpret_cast<uint32_t*>(to + n * 8) =
          pack_bf16(sums[n][2 * i] * scale, sums[n][2 * i + 1] * scale);
  }
}
// Lanes of even t = lane % 4 store four columns of even tiles of 8, those of odd t of odd ones.
// Whoever has column 0 stores the statistics.
template <int kTiles>
__device__ __forceinline__ void store_part(const MlaDecode& p, const MlaSums<kTiles>& sums,
                                           const float (&max)[kMlaHeads], int item, int column,
                                           int lane) {
  const int head0 = static_cast<int>(blockIdx.x) * kMlaHeads, n_heads = p.parts.H - head0;
  const int g = lane / 4, t = lane % 4;
  float* to = p.parts.sum(item, head0 + g) + column + t % 2 * 8 + t / 2 * 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int n = 0; n < kTiles; n += 2) {
      const float2 even = {sums[n][2 * i], sums[n][2 * i + 1]};
      const float2 odd = {sums[n + 1][2 * i], sums[n + 1][2 * i + 1]};
      const float2 mine = t % 2 == 0 ? even : odd, other = t % 2 == 0 ? odd : even;
      const float2 got = {__shfl_xor_sync(0xffffffffu, other.x, 1),
                          __shfl_xor_sync(0xffffffffu, other.y, 1)};
      const float4 four = t % 2 == 0 ? make_float4(mine.x, mine.y, got.x, got.y)
                                     : make_float4(got.x, got.y, mine.x, mine.y);
      if (g + 8 * i < n_heads)
        *reinterpret_cast<float4*>(to + i * 8 * kMlaValueWidth + n * 8) = four;
    }
    if (g + 8 * i < n_heads && column == 0 && t == 0)
      *p.parts.stat(item, head0 + g + 8 * i) = make_float2(max[g + 8 * i], sums[kTiles][2 * i]);
  }
}

// The products with the values of a warp's columns, and where they go.
template <int kTiles>
__device__ __forceinline__ void add_and_store(const MlaDecode& p, const PageMemory<false>& m,
                                              const RowPage& here, int item, int warp, int lane) {
  const int column = (max(here.share, 0) * kMlaTileWarps + warp) * kTiles * 8;
  MlaSums<kTiles> sums = {};
  add_tile<kTiles>(first_value(m.tile, column, lane), m.work, column == 0 || here.only, sums, lane);
  if (here.only)
    store_result<kTiles>(p, sums, here.token, column, lane);
  else
    store_part<kTiles>(p, sums, m.max, item, column, lane);
}

#endif

template <bool kFp8>
__global__ __launch_bounds__(kMlaTileThreads,
                             2) void mla_page_kernel(const __grid_constant__ MlaDecode p) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 shared[];
  auto& m = *reinterpret_cast<PageMemory<kFp8>*>(shared);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int r = static_cast<int>(blockIdx.z);
  const RowPage here(p.rows, r, static_cast<int>(blockIdx.y), lane);
  if (here.n_tokens <= 0) return;  // others, those of first pages, wait for the kernel before
  start_next_kernel();
  const std::byte* from = p.pages + here.block * (int64_t{kMlaTile} * kPageRowBytes<kFp8>);
  if (warp == 0) fetch_known(from, here.n_known, m, lane);
  clear_values(m.tile, here.n_tokens + warp, kMlaTileWarps, lane);
  const int head = min(static_cast<int>(blockIdx.x) * kMlaHeads + warp, p.parts.H - 1);
  const LatePieces<kFp8> late(p.q.row(here.token, head), from, here, m, warp, lane);
  const int item = pages_before(p.rows, r, lane) + here.page;
  __syncthreads();  // the barrier and the zeros are there
  if constexpr (kFp8) {
    wait_barrier(&m.full, 0);
    expand_codes(m.codes, 0, here.n_known, m.tile, warp, lane);
    __syncthreads();
  }
  wait_for_previous_kernel();

  late.fetch();
  const int n_late = here.n_tokens - here.n_known;
  if (n_late > LatePieces<kFp8>::kRows) late.fetch_more(from, here, m);
  commit_copies();
  // Keys come while the query does, where they are none of the step's own rows: those are late.
  const bool early = n_late == 0 || (n_late == 1 && !HeldKeys::reads(here.n_known, warp));
  HeldKeys keys;
  if (early) {
    wait_barrier(&m.full, 0);
    keys.load(m.tile, warp, lane);
  }
  wait_for_copies<0>();
  __syncthreads();
  if (kFp8 && n_late > 0) {
    if constexpr (kFp8) expand_codes(m.codes, here.n_known, here.n_tokens, m.tile, warp, lane);
    __syncthreads();
  }
  if (!early) {
    wait_barrier(&m.full, 0);
    keys.load(m.tile, warp, lane);
  }
  score_tile(
      [&](int k, uint32_t(&b)[4]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) b[i] = keys.b[k][i];
      },
      m.work, warp, lane);
  __syncthreads();
  MlaLogits logits;
  logits.load(m.work, warp, lane);
  const float max = logits.weigh(m.work, here.n_tokens, p.scale_log2, -INFINITY, warp, lane);
  if (lane == 0) m.max[warp] = max;
  __syncthreads();
  if (here.share < 0)
    add_and_store<kMlaColumnTiles>(p, m, here, item, warp, lane);
  else
    add_and_store<kMlaColumnTiles / kPageBlocks>(p, m, here, item, warp, lane);
#endif
}

}  // namespace dsr::cuda
