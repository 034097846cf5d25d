// mla_attention of decode rows on sm_90, for the rows of released models as bf16 or fp8. Definition
// and shapes: ops/mla.h; who does what, and in which order parts are added: mla_split.cuh.
//
// Mapping   grid (groups of 16 heads, blocks that share the work), a block per SM. One of its warps
//           fetches, sixteen multiply. A tile is a page (mla_tile.cuh). Rows with no more pages
//           than there are blocks: mla_page.cuh.
// Memory    187 KB: two tiles, of which one is on its way while the other is multiplied; as fp8 two
//           pages of codes and the one tile that they become, 197 KB. By the memory's speed a page
//           takes an SM 5,400 cycles on an H100, as fp8 3,100.
// Traffic   every row once per 16 heads; 2 * 4 bytes * 512 per head and stored item.
#include "attention/mla_kernels.h"
#include "attention/mla_merge.cuh"
#include "attention/mla_merge_value.cuh"
#include "attention/mla_page.cuh"
#include "attention/mla_split.cuh"
#include "attention/mla_tile.cuh"

namespace dsr::cuda {
namespace {

constexpr int kWarps = kMlaTileWarps, kConsumerThreads = kMlaTileThreads;
constexpr int kThreads = kConsumerThreads + 32;
constexpr int kHeads = kMlaHeads;
constexpr int kKeyWidth = kMlaKeyWidth;
constexpr int kTile = kMlaTile, kRun = kMlaRun;
constexpr int kColumns = kMlaColumns, kColumnTiles = kMlaColumnTiles;
constexpr int kStages = 2;

// What the fetching warp says of a tile.
struct alignas(16) TileInfo {
  int n_tokens;  // 0: no more tiles
  int token;     // of the batch, whose row it is
  int item;      // -1: the result is the row's
  unsigned flags;

  __device__ bool starts_part() const { return flags & 1; }
  __device__ bool ends_part() const { return flags & 2; }
  __device__ bool first_part() const { return flags & 4; }  // of the item
  __device__ bool ends_item() const { return flags & 8; }
};

// What is fetched of a page, and what is multiplied of it.
struct Bf16Pages {
  static constexpr int kRowBytes = kMlaRowBytes;
  MlaTile stages[kStages];
};
struct Fp8Pages {
  static constexpr int kRowBytes = MlaCodes::kRowBytes;
  MlaCodePage stages[kStages];
  MlaTile tile;
};

template <typename Pages>
struct DecodeMemory {
  Pages pages;
  MlaTileWork work;
  // By head: of the part so far when it goes on; of the item and the part when that joins it.
  float rescale[kHeads], item_scale[kHeads], part_scale[kHeads], item_max[kHeads];
  TileInfo info[kStages];
  uint64_t full[kStages], empty[kStages];
  int first_token;  // -1: no work
};

#if __CUDA_ARCH__ >= 900

__device__ __forceinline__ void meet_consumers() { wait_for_threads<1, kConsumerThreads>(); }

// --- the fetching warp --------------------------------------------------------------------------

template <typename Pages>
class Fetcher {
  static constexpr int kRowBytes = Pages::kRowBytes;

 public:
  __device__ Fetcher(const MlaDecode& p, DecodeMemory<Pages>& memory, int lane)
      : p_(p), memory_(memory), lane_(lane), walk_(p.rows, static_cast<int>(blockIdx.y), lane) {}

  __device__ __forceinline__ int first_token() const { return walk_.done() ? -1 : walk_.row.token; }

  __device__ __forceinline__ void run() {
    Rows late[kStages];  // that were not in the cache before the step
    int stage = 0;
    uint32_t parity = 1;  // nobody has had a stage before
    bool waited = false;
    // One loop for the tiles before the dependency wait and after it: its code is not in the
    // caches.
#pragma unroll 1
    for (int i = 0;; ++i) {
      if (!waited && (i == kStages || walk_.done())) {
        call_next_pages();
        wait_for_previous_kernel();
        waited = true;
#pragma unroll
        for (int k = 0; k < kStages; ++k)
          if (k < i) fetch(k, late[k]);
      }
      if (walk_.done()) break;
      Rows rows = {page(walk_), 0, walk_.n_tokens()};
      wait_barrier(&memory_.empty[stage], parity);
      announce(stage);
      if (!waited) {
#pragma unroll
        for (int k = 0; k < kStages; ++k)
          if (k == i) late[k] = {rows.page, walk_.n_known(), rows.to};
        rows.to = walk_.n_known();
      }
      fetch(stage, rows);
      walk_.next();
      if (++stage == kStages) stage = 0, parity ^= 1;
    }
    wait_barrier(&memory_.empty[stage], parity);
    if (lane_ == 0) memory_.info[stage].n_tokens = 0;
    arrive(&memory_.full[stage]);
  }

 private:
  struct Rows {
    const std::byte* page;
    int from, to;
  };

  __device__ __forceinline__ const std::byte* page(const PageWalk& walk) const {
    const PagedBatch& b = p_.rows.batch;
    return p_.pages + b.block_table[walk.row.sequence * b.block_table_stride + walk.page] *
                          (int64_t{kTile} * kRowBytes);
  }
  // The pages behind those of the stages, into the L2.
  __device__ __forceinline__ void call_next_pages() const {
    PageWalk ahead = walk_;
#pragma unroll 1
    for (int i = 0; i < kStages && !ahead.done(); ++i, ahead.next())
      if (ahead.n_known() > 0 && lane_ == 0)
        prefetch_bulk(page(ahead), static_cast<uint32_t>(ahead.n_known() * kRowBytes));
  }

  // The page of the walk comes to a stage. Values past its end become zero, as their weights are;
  // of codes, when they are expanded.
  __device__ __forceinline__ void announce(int stage) {
    const int n_tokens = walk_.n_tokens();
    if constexpr (std::is_same_v<Pages, Bf16Pages>) {
      if (n_tokens < kTile) {
        clear_values(memory_.pages.stages[stage], n_tokens, 1, lane_);
        order_before_copies();
      }
    }
    if (lane_ == 0) {
      const unsigned flags = walk_.starts_part() | walk_.ends_part() << 1 |
                             walk_.first_part() << 2 | walk_.ends_item() << 3;
      memory_.info[stage] = {n_tokens, walk_.row.token, walk_.item(), flags};
      arrive_expecting(&memory_.full[stage], static_cast<uint32_t>(n_tokens * kRowBytes));
    } else {
      arrive(&memory_.full[stage]);  // for the zeros that this lane has stored
    }
    __syncwarp();
  }
  __device__ __forceinline__ void fetch(int stage, const Rows& rows) {
    const int from = max(rows.from, lane_ * kRun), to = min(rows.to, (lane_ + 1) * kRun);
    if (from >= to) return;
    copy_page_rows(memory_.pages.stages[stage].row(from), rows.page + from * kRowBytes,
                   (to - from) * kRowBytes, &memory_.full[stage]);
  }

  const MlaDecode& p_;
  DecodeMemory<Pages>& memory_;
  const int lane_;
  PageWalk walk_;
};

// --- the warps that multiply --------------------------------------------------------------------

template <typename Pages>
class Multiplier {
 public:
  __device__ Multiplier(const MlaDecode& p, DecodeMemory<Pages>& memory)
      : p_(p),
        memory_(memory),
        warp_(static_cast<int>(threadIdx.x) / 32),
        lane_(static_cast<int>(threadIdx.x) % 32),
        head_(static_cast<int>(blockIdx.x) * kHeads),
        n_heads_(min(kHeads, p.parts.H - head_)) {}

  __device__ __forceinline__ void run() {
    int token = memory_.first_token;
    const bf16* query = query_of(token);
    wait_for_previous_kernel();
    take_query(query);
#pragma unroll 1
    for (int i = 0;; ++i) {
      const int stage = i % kStages;
      wait_barrier(&memory_.full[stage], static_cast<uint32_t>(i / kStages % 2));
      const TileInfo info = memory_.info[stage];
      if (info.n_tokens == 0) return;
      if (info.token != token) {
        token = info.token;
        take_query(query_of(token));
      }
      if constexpr (std::is_same_v<Pages, Fp8Pages>) {
        if (i > 0) meet_consumers();  // nobody adds the tile before any more
        MlaTile& tile = memory_.pages.tile;
        expand_codes(memory_.pages.stages[stage], 0, info.n_tokens, tile, warp_, lane_);
        clear_values(tile, info.n_tokens + warp_, kWarps, lane_);
        give_back(stage);
        meet_consumers();
        multiply(info, tile);
      } else {
        multiply(info, memory_.pages.stages[stage]);
        give_back(stage);
      }
      if (info.ends_part()) join(info);
    }
  }

 private:
  __device__ __forceinline__ void multiply(const TileInfo& info, const MlaTile& tile) {
    score(tile);
    meet_consumers();
    weigh(info);
    meet_consumers();
    add(info, tile);
  }
  __device__ __forceinline__ void give_back(int stage) {
    // The arrival alone would overtake the last loads of the stage (scripts/check_arrivals.py).
    order_before_copies();
    __syncwarp();
    if (lane_ == 0) arrive(&memory_.empty[stage]);
  }

  // Of this warp's head, this lane's first 8 elements.
  __device__ __forceinline__ const bf16* query_of(int token) const {
    const int r = min(warp_, n_heads_ - 1);  // heads that there are not: the last one
    return p_.q.row(token, head_ + r) + lane_ * 8;
  }
  // All heads, each by its warp; everyone has come past the scores of the row before.
  __device__ __forceinline__ void take_query(const bf16* from) {
#pragma unroll
    for (int c = 0; c < kKeyWidth; c += 32 * 8)
      if (c + lane_ * 8 < kKeyWidth)
        copy_async_16(&memory_.work.query[warp_][c + lane_ * 8], from + c);
    commit_copies();
    wait_for_copies<0>();
    meet_consumers();
  }

  __device__ __forceinline__ void score(const MlaTile& tile) {
    const std::byte* from = first_key(tile, warp_, lane_);
    score_tile([&](int k, uint32_t(&b)[4]) { load_matrices(b, from + k * 32); }, memory_.work,
               warp_, lane_);
  }

  // The softmax of this warp's head.
  __device__ __forceinline__ void weigh(const TileInfo& info) {
    const int r = warp_;
    const float before = info.starts_part() ? -INFINITY : part_max_;
    MlaLogits logits;
    logits.load(memory_.work, warp_, lane_);
    part_max_ = logits.weigh(memory_.work, info.n_tokens, p_.scale_log2, before, warp_, lane_);
    if (lane_ == 0) memory_.rescale[r] = power_of_two(before - part_max_);
    if (!info.ends_part()) return;
    const float item_before = info.first_part() ? -INFINITY : item_max_;
    item_max_ = fmaxf(item_before, part_max_);
    if (lane_ != 0) return;
    memory_.item_scale[r] = power_of_two(item_before - item_max_);
    memory_.part_scale[r] = power_of_two(part_max_ - item_max_);
    memory_.item_max[r] = item_max_;
  }

  // The part's sums.
  __device__ __forceinline__ void add(const TileInfo& info, const MlaTile& tile) {
    if (!info.starts_part()) {
      const float low = memory_.rescale[lane_ / 4], high = memory_.rescale[lane_ / 4 + 8];
#pragma unroll
      for (auto& o : part_) {
        o[0] *= low, o[1] *= low;
        o[2] *= high, o[3] *= high;
      }
    }
    add_tile<kColumnTiles>(first_value(tile, warp_ * kColumns, lane_), memory_.work,
                           /*wants_sum=*/true, part_, lane_);
  }

  // The part joins the item, which is stored where it ends.
  __device__ __forceinline__ void join(const TileInfo& info) {
    if (info.first_part() && info.ends_item()) {  // what a row alone waits for
      store(info, part_);
    } else {
      const int r = lane_ / 4;
      const float before[2] = {memory_.item_scale[r], memory_.item_scale[r + 8]};
      const float now[2] = {memory_.part_scale[r], memory_.part_scale[r + 8]};
#pragma unroll
      for (int n = 0; n <= kColumnTiles; ++n)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          item_[n][j] = info.first_part() ? part_[n][j]
                                          : item_[n][j] * before[j / 2] + part_[n][j] * now[j / 2];
      if (info.ends_item()) store(info, item_);
    }
#pragma unroll
    for (auto& o : part_) o[0] = o[1] = o[2] = o[3] = 0;
  }
  __device__ __forceinline__ void store(const TileInfo& info, const MlaSums<kColumnTiles>& sums) {
    const int column = warp_ * kColumns + lane_ % 4 * 2;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = lane_ / 4 + 8 * i;
      const float sum = sums[kColumnTiles][2 * i];
      if (r < n_heads_ && info.item < 0) {
        const float scale = 1 / sum;
        bf16* to = p_.out.row(info.token, head_ + r);
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n)
          *reinterpret_cast<uint32_t*>(to + column + n * 8) =
              pack_bf16(sums[n][2 * i] * scale, sums[n][2 * i + 1] * scale);
      } else if (r < n_heads_) {
        float* to = p_.parts.sum(info.item, head_ + r) + column;
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n)
          *reinterpret_cast<float2*>(to + n * 8) = make_float2(sums[n][2 * i], sums[n][2 * i + 1]);
        if (column == 0)
          *p_.parts.stat(info.item, head_ + r) = make_float2(memory_.item_max[r], sum);
      }
    }
  }

  const MlaDecode& p_;
  DecodeMemory<Pages>& memory_;
  const int warp_, lane_, head_, n_heads_;
  MlaSums<kColumnTiles> part_ = {}, item_;
  float part_max_ = -INFINITY, item_max_ = -INFINITY;  // of this warp's head
};

#endif

template <typename Pages>
__global__ __launch_bounds__(kThreads,
                             1) void mla_decode_kernel(const __grid_constant__ MlaDecode p) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 shared[];
  auto& memory = *reinterpret_cast<DecodeMemory<Pages>*>(shared);
  if (threadIdx.x >= kConsumerThreads) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (lane == 0) {
      for (uint64_t& barrier : memory.full) init_barrier(&barrier, 32);
      for (uint64_t& barrier : memory.empty) init_barrier(&barrier, kWarps);
      publish_barriers();
    }
    Fetcher<Pages> fetcher(p, memory, lane);
    if (lane == 0) memory.first_token = fetcher.first_token();
    __syncthreads();
    if (fetcher.first_token() >= 0)
      fetcher.run();
    else
      wait_for_previous_kernel();  // so that the kernel ends after the one before in any case
    return;
  }
  __syncthreads();
  if (memory.first_token >= 0) Multiplier<Pages>(p, memory).run();
#endif
}

// Whether the kernel for one page a block takes them (mla_page.cuh).
bool fits_pages(const DecodeRows& rows) {
  return rows.tokens && rows.n_rows * rows.max_pages == rows.n_blocks &&
         rows.max_pages <= kMlaParts;  // a page is a part
}

template <typename Pages>
void launch_blocks(Exec& exec, dim3 grid, const MlaDecode& p) {
  launch(exec, "mla_attention",
         {.grid = grid, .threads = kThreads, .shared_bytes = sizeof(DecodeMemory<Pages>)},
         mla_decode_kernel<Pages>, p);
}

template <bool kFp8>
void launch_pages(Exec& exec, dim3 grid, const MlaDecode& p) {
  launch(exec, "mla_attention: pages",
         {.grid = grid, .threads = kMlaTileThreads, .shared_bytes = kPageSharedBytes<kFp8>},
         mla_page_kernel<kFp8>, p);
}

// What is left to add up.
struct Stored {
  DecodeRows rows;
  MlaParts parts;  // in scratch
};
Stored launch_decode(Exec& exec, const MlaAttentionArgs& a) {
  const int64_t T = a.q.shape[0], H = a.q.shape[1], S = a.block_table.shape[0];
  const int64_t head_groups = (H + kHeads - 1) / kHeads, max_pages = a.block_table.shape[1];
  const int64_t n_rows = std::min(T, S);
  const int64_t n_blocks =
      std::min(std::max<int64_t>(exec.cuda().n_sms() / head_groups, 1), n_rows * max_pages);
  const DecodeRows rows = {.batch = paged_batch(a),
                           .n_rows = narrow(n_rows),
                           .tokens = T <= S,
                           .n_blocks = narrow(n_blocks),
                           .max_pages = narrow(max_pages)};
  // As PageWalk computes it.
  DSR_CHECK(n_rows * max_pages * n_blocks < (int64_t{1} << 31), n_rows, max_pages, n_blocks);
  const MlaParts parts = take_parts(exec, max_mla_items(n_rows, max_pages, n_blocks), H);
  const MlaDecode p = {.out = head_rows(a.out),
                       .q = head_rows(a.q),
                       .pages = a.cache.pages.ptr<std::byte>(),
                       .rows = rows,
                       .parts = parts,
                       .scale_log2 = scale_log2(a)};
  const bool fp8 = a.cache.format.type == CacheType::kFP8;
  if (fits_pages(rows)) {
    // Of a row: a block for each page, kPageBlocks where the GPU has them.
    const int64_t of_row = std::clamp(exec.cuda().n_sms() / (head_groups * n_rows), max_pages,
                                      kPageBlocks * max_pages);
    const dim3 grid(static_cast<unsigned>(head_groups), static_cast<unsigned>(of_row),
                    static_cast<unsigned>(n_rows));
    if (fp8)
      launch_pages<true>(exec, grid, p);
    else
      launch_pages<false>(exec, grid, p);
    return {rows, parts};
  }
  const dim3 grid(static_cast<unsigned>(head_groups), static_cast<unsigned>(n_blocks));
  if (fp8)
    launch_blocks<Fp8Pages>(exec, grid, p);
  else
    launch_blocks<Bf16Pages>(exec, grid, p);
  return {rows, parts};
}

}  // namespace

void mla_decode_sm90(Exec& exec, const MlaAttentionArgs& a) {
  const Arena::Scope scope(exec.scratch());
  const Stored s = launch_decode(exec, a);
  if (a.block_table.shape[1] > 1) merge_mla(exec, a.out, s.rows, s.parts);
}

bool mla_merges_value(Exec& exec, const DenseProduct& value) {
  constexpr int kPerSm = 2;  // blocks; more rows go through the two kernels faster
  return value.w.layout.fp8 && value.w.units_per_group == kMlaValueBlocks &&
         int64_t{value.n_tokens} * value.w.n_units <= int64_t{kPerSm} * exec.cuda().n_sms();
}

void mla_decode_value_sm90(Exec& exec, const MlaAttentionArgs& a, const DenseProduct& value) {
  const Arena::Scope scope(exec.scratch());
  const Stored s = launch_decode(exec, a);
  merge_mla_value(exec, s.rows, s.parts, value);
}

}  // namespace dsr::cuda
