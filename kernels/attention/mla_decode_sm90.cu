// mla_attention of decode rows on sm_90, for the rows of released models as bf16. Definition and
// shapes: ops/mla.h; who does what, and in which order parts are added: mla_split.cuh.
//
// Mapping   grid (groups of 16 heads, blocks that share the work), a block per SM. One of its warps
//           fetches, eight multiply by mma.sync. A tile is a page. Scores: a warp takes 16 of its
//           tokens and half of the width. Softmax: two heads a warp. Values: 64 of the columns a
//           warp; the sum of the weights is one more column, of ones.
// Tile      eight copies of 8 rows, each 16 bytes further than they are in the page: the eight rows
//           that ldmatrix reads at once are of eight copies, hence in different banks. So place i
//           of a tile is token 8 (i % 8) + i / 8.
// Rounding  p to bf16; sums in fp32. The sum of p is that of the rounded ones.
// Memory    178 KB: two tiles, of which one is on its way while the other is multiplied. By the
//           memory's speed a tile takes an SM 5,400 cycles on an H100.
// Traffic   every row once per 16 heads; 2 * 4 bytes * 512 per head and stored item.
#include "attention/mla_kernels.h"
#include "attention/mla_merge.cuh"
#include "attention/mla_merge_value.cuh"
#include "attention/mla_split.cuh"
#include "attention/tiled_attention.cuh"

namespace dsr::cuda {
namespace {

constexpr int kWarps = 8, kConsumerThreads = 32 * kWarps, kThreads = kConsumerThreads + 32;
constexpr int kHeads = 16;  // of a block: the M of mma.m16n8k16
constexpr int kKeyWidth = MlaShape::kKeyWidth, kValueWidth = MlaShape::kValueWidth;
constexpr int kTile = static_cast<int>(kPageTokens);
constexpr int kRowBytes = kKeyWidth * 2, kRun = 8, kRuns = kTile / kRun;
constexpr int kRunPitch = kRun * kRowBytes + 16;
constexpr int kStages = 2;
constexpr int kKeySteps = kKeyWidth / 16 / 2;  // of k16, of a warp
constexpr int kColumns = kValueWidth / kWarps, kColumnTiles = kColumns / 8;
constexpr int kQueryPitch = kKeyWidth + 8;  // elements
static_assert(kRun == 8 && kRuns == 8, "as places and tokens are related");

struct DecodeParams {
  bf16* out;  // [T, H, kValueWidth]
  int64_t out_token_stride, out_head_stride;
  const bf16* q;  // [T, H, kKeyWidth]
  int64_t q_token_stride, q_head_stride;
  const std::byte* pages;
  DecodeRows rows;
  MlaParts parts;
  float scale_log2;  // softmax_scale * log2(e)
};

// What the fetching warp says of a tile.
struct alignas(16) TileInfo {
  int n_tokens;  // 0: no more tiles
  int token;     // of the batch, whose row it is
  int item;      // -1: the result is the row's
  bool starts_part, ends_part, ends_item;
};

struct DecodeMemory {
  alignas(128) std::byte tiles[kStages][kRuns * kRunPitch];
  alignas(16) bf16 query[kHeads][kQueryPitch];
  float scores[2][kHeads][kTile + 8];           // by halves of the width, in places
  alignas(16) bf16 weights[kHeads][kTile + 8];  // exp2(score - max), zeros past the end; in places
  // By head: of the part so far when it goes on; of the item and the part when that joins it.
  float rescale[kHeads], item_scale[kHeads], part_scale[kHeads], item_max[kHeads];
  TileInfo info[kStages];
  uint64_t full[kStages], empty[kStages];
  int first_token;  // -1: no work
};

#if __CUDA_ARCH__ >= 900

__device__ __forceinline__ void meet_consumers() { wait_for_threads<1, kConsumerThreads>(); }

// --- the fetching warp --------------------------------------------------------------------------

class Fetcher {
 public:
  __device__ Fetcher(const DecodeParams& p, DecodeMemory& memory, int lane)
      : p_(p), memory_(memory), lane_(lane), walk_(p.rows, static_cast<int>(blockIdx.y), lane) {}

  __device__ __forceinline__ int first_token() const { return walk_.done() ? -1 : walk_.row.token; }

  __device__ void run() {
    // Rows that were in the cache before the step; the others follow.
    Rows late[kStages];
    int n = 0;
#pragma unroll
    for (int i = 0; i < kStages; ++i) {
      if (walk_.done()) break;
      late[i] = {page(), walk_.n_known(), walk_.n_tokens()};
      announce(i);
      fetch(i, {late[i].page, 0, late[i].from});
      walk_.next();
      ++n;
    }
    PageWalk ahead = walk_;
#pragma unroll 1
    for (int i = 0; i < kStages && !ahead.done(); ++i, ahead.next())
      if (ahead.n_known() > 0 && lane_ == 0)
        prefetch_bulk(page(ahead), static_cast<uint32_t>(ahead.n_known() * kRowBytes));
    wait_for_previous_kernel();
#pragma unroll
    for (int i = 0; i < kStages; ++i)
      if (i < n) fetch(i, late[i]);

    int stage = 0;
    uint32_t parity = 0;
    for (; !walk_.done(); walk_.next()) {
      const std::byte* from = page();
      wait_barrier(&memory_.empty[stage], parity);
      announce(stage);
      fetch(stage, {from, 0, walk_.n_tokens()});
      if (++stage == kStages) stage = 0, parity ^= 1;
    }
    if (n < kStages) {
      stage = n;
    } else {
      wait_barrier(&memory_.empty[stage], parity);
    }
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
  __device__ __forceinline__ const std::byte* page() const { return page(walk_); }

  // The tile of the walk comes to a stage. Values past its end become zero, as their weights are.
  __device__ __forceinline__ void announce(int stage) {
    const int n_tokens = walk_.n_tokens();
    if (n_tokens < kTile) {
      constexpr int kChunks = kValueWidth * 2 / 16;
      for (int i = n_tokens * kChunks + lane_; i < kTile * kChunks; i += 32) {
        const int r = i / kChunks;
        *reinterpret_cast<uint4*>(memory_.tiles[stage] + r / kRun * kRunPitch +
                                  r % kRun * kRowBytes + i % kChunks * 16) = make_uint4(0, 0, 0, 0);
      }
      order_before_copies();
    }
    if (lane_ == 0) {
      memory_.info[stage] = {n_tokens,          walk_.row.token,  walk_.item(), walk_.starts_part(),
                             walk_.ends_part(), walk_.ends_item()};
      arrive_expecting(&memory_.full[stage], static_cast<uint32_t>(n_tokens * kRowBytes));
    } else {
      arrive(&memory_.full[stage]);  // for the zeros that this lane has stored
    }
    __syncwarp();
  }
  __device__ __forceinline__ void fetch(int stage, const Rows& rows) {
    const int from = max(rows.from, lane_ * kRun), to = min(rows.to, (lane_ + 1) * kRun);
    if (from >= to) return;
    copy_bulk(memory_.tiles[stage] + lane_ * kRunPitch + from % kRun * kRowBytes,
              rows.page + from * kRowBytes, static_cast<uint32_t>((to - from) * kRowBytes),
              &memory_.full[stage]);
  }

  const DecodeParams& p_;
  DecodeMemory& memory_;
  const int lane_;
  PageWalk walk_;
};

// --- the warps that multiply --------------------------------------------------------------------

// Where this lane's row of an ldmatrix lies in a tile, that of place `lane % 8`, from place 0.
__device__ __forceinline__ int lane_run(int lane) { return lane % 8 * kRunPitch; }
// Places come in eights; further by so many of them.
__device__ __forceinline__ int eights(int n) { return n * kRowBytes; }

class Multiplier {
 public:
  __device__ Multiplier(const DecodeParams& p, DecodeMemory& memory)
      : p_(p),
        memory_(memory),
        warp_(static_cast<int>(threadIdx.x) / 32),
        lane_(static_cast<int>(threadIdx.x) % 32),
        head_(static_cast<int>(blockIdx.x) * kHeads),
        n_heads_(min(kHeads, p.parts.H - head_)) {}

  __device__ __forceinline__ void run() {
    wait_for_previous_kernel();
    int token = memory_.first_token;
    take_query(token);
    int stage = 0;
    uint32_t parity = 0;
#pragma unroll 1
    while (true) {
      wait_barrier(&memory_.full[stage], parity);
      const TileInfo info = memory_.info[stage];
      if (info.n_tokens == 0) return;
      if (info.token != token) {
        token = info.token;
        take_query(token);
      }
      score(memory_.tiles[stage]);
      meet_consumers();
      weigh(info);
      meet_consumers();
      add(info, memory_.tiles[stage]);
      __syncwarp();  // all lanes have read the tile
      if (lane_ == 0) arrive(&memory_.empty[stage]);
      if (info.ends_part) join(info);
      if (++stage == kStages) stage = 0, parity ^= 1;
    }
  }

 private:
  // All of them, and everyone has come past the scores of the row before.
  __device__ __forceinline__ void take_query(int token) {
    constexpr int kChunks = kKeyWidth / 8;
    for (int c = static_cast<int>(threadIdx.x); c < kHeads * kChunks; c += kConsumerThreads) {
      const int r = c / kChunks, column = c % kChunks * 8;
      const bool valid = r < n_heads_;
      copy_async_16(
          &memory_.query[r][column],
          valid ? p_.q + token * p_.q_token_stride + (head_ + r) * p_.q_head_stride + column : p_.q,
          valid);
    }
    commit_copies();
    wait_for_copies<0>();
    meet_consumers();
#pragma unroll
    for (int k = 0; k < kKeySteps; ++k)
      load_matrices(q_[k],
                    &memory_.query[lane_ % 16][(half() * kKeySteps + k) * 16 + lane_ / 16 * 8]);
  }

  // scores[kHeads, kTile]: this warp's 16 places over its half of the width, in two chains for each
  // 8 of them.
  __device__ __forceinline__ void score(const std::byte* tile) {
    const int g = lane_ / 4, t2 = lane_ % 4 * 2, eight = warp_ % 4 * 2;
    const std::byte* from = tile + lane_run(lane_) + eights(eight + lane_ / 16) +
                            half() * kKeySteps * 32 + lane_ / 8 % 2 * 16;
    float s[2][2][4] = {};  // [chain][8 places]
#pragma unroll
    for (int k = 0; k < kKeySteps; ++k) {
      uint32_t b[4];
      load_matrices(b, from + k * 32);
      mma_bf16(s[k % 2][0], q_[k], b[0], b[1]);
      mma_bf16(s[k % 2][1], q_[k], b[2], b[3]);
    }
    auto& mine = memory_.scores[half()];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float* even = s[0][j];
      const float* odd = s[1][j];
      const int place = (eight + j) * 8 + t2;
      *reinterpret_cast<float2*>(&mine[g][place]) = make_float2(even[0] + odd[0], even[1] + odd[1]);
      *reinterpret_cast<float2*>(&mine[g + 8][place]) =
          make_float2(even[2] + odd[2], even[3] + odd[3]);
    }
  }

  // The softmax of this warp's two heads, two neighbouring places a lane.
  __device__ __forceinline__ void weigh(const TileInfo& info) {
    const int place = 2 * lane_, token = place % 8 * 8 + place / 8;
    float2 v[2];
    float max[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float2 a = *reinterpret_cast<const float2*>(&memory_.scores[0][2 * warp_ + i][place]);
      const float2 b = *reinterpret_cast<const float2*>(&memory_.scores[1][2 * warp_ + i][place]);
      v[i].x = token < info.n_tokens ? (a.x + b.x) * p_.scale_log2 : -INFINITY;
      v[i].y = token + 8 < info.n_tokens ? (a.y + b.y) * p_.scale_log2 : -INFINITY;
      max[i] = fmaxf(v[i].x, v[i].y);
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        max[i] = fmaxf(max[i], __shfl_xor_sync(0xffffffffu, max[i], offset));
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = 2 * warp_ + i;
      const float before = info.starts_part ? -INFINITY : part_max_[i];
      part_max_[i] = fmaxf(before, ceilf(max[i]));
      *reinterpret_cast<uint32_t*>(&memory_.weights[r][place]) =
          pack_bf16(exp2f(v[i].x - part_max_[i]), exp2f(v[i].y - part_max_[i]));
      if (!info.ends_part) {
        if (lane_ == 0) memory_.rescale[r] = power_of_two(before - part_max_[i]);
        continue;
      }
      const float item_max = fmaxf(item_max_[i], part_max_[i]);
      if (lane_ == 0) {
        memory_.rescale[r] = power_of_two(before - part_max_[i]);
        memory_.item_scale[r] = power_of_two(item_max_[i] - item_max);
        memory_.part_scale[r] = power_of_two(part_max_[i] - item_max);
        memory_.item_max[r] = item_max;
      }
      item_max_[i] = info.ends_item ? -INFINITY : item_max;
    }
  }

  // The part's sums of p v, and of p.
  __device__ __forceinline__ void add(const TileInfo& info, const std::byte* tile) {
    constexpr uint32_t kOnes = 0x3f803f80;
    if (!info.starts_part) {
      const float low = memory_.rescale[lane_ / 4], high = memory_.rescale[lane_ / 4 + 8];
#pragma unroll
      for (auto& o : part_) {
        o[0] *= low, o[1] *= low;
        o[2] *= high, o[3] *= high;
      }
    }
    const std::byte* from =
        tile + lane_run(lane_) + eights(lane_ / 8 % 2) + warp_ * kColumns * 2 + lane_ / 16 * 16;
#pragma unroll
    for (int k = 0; k < kTile / 16; ++k) {
      uint32_t a[4];
      load_matrices(a, &memory_.weights[lane_ % 16][k * 16 + lane_ / 16 * 8]);
#pragma unroll
      for (int n = 0; n < kColumnTiles; n += 2) {
        uint32_t b[4];
        load_matrices_transposed(b, from + eights(2 * k) + n * 16);
        mma_bf16(part_[n], a, b[0], b[1]);
        mma_bf16(part_[n + 1], a, b[2], b[3]);
      }
      mma_bf16(part_[kColumnTiles], a, kOnes, kOnes);
    }
  }

  // The part joins the item, which is stored where it ends.
  __device__ __forceinline__ void join(const TileInfo& info) {
    const int r = lane_ / 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float before = memory_.item_scale[r + 8 * i], now = memory_.part_scale[r + 8 * i];
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
        for (int j = 2 * i; j < 2 * i + 2; ++j)
          item_[n][j] = item_[n][j] * before + part_[n][j] * now;
      item_sum_[i] = item_sum_[i] * before + part_[kColumnTiles][2 * i] * now;
    }
#pragma unroll
    for (auto& o : part_) o[0] = o[1] = o[2] = o[3] = 0;
    if (info.ends_item) store(info);
  }
  __device__ __forceinline__ void store(const TileInfo& info) {
    const int column = warp_ * kColumns + lane_ % 4 * 2;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = lane_ / 4 + 8 * i;
      const float sum = item_sum_[i];
      if (r < n_heads_ && info.item < 0) {
        const float scale = 1 / sum;
        bf16* to = p_.out + info.token * p_.out_token_stride + (head_ + r) * p_.out_head_stride;
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n)
          *reinterpret_cast<uint32_t*>(to + column + n * 8) =
              pack_bf16(item_[n][2 * i] * scale, item_[n][2 * i + 1] * scale);
      } else if (r < n_heads_) {
        const int64_t at = p_.parts.at(info.item, head_ + r);
        float* to = p_.parts.sums + at * kValueWidth + column;
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n)
          *reinterpret_cast<float2*>(to + n * 8) =
              make_float2(item_[n][2 * i], item_[n][2 * i + 1]);
        if (column == 0) p_.parts.stats[at] = make_float2(memory_.item_max[r], sum);
      }
#pragma unroll
      for (auto& o : item_) o[2 * i] = o[2 * i + 1] = 0;
      item_sum_[i] = 0;
    }
  }

  __device__ __forceinline__ int half() const { return warp_ / 4; }

  const DecodeParams& p_;
  DecodeMemory& memory_;
  const int warp_, lane_, head_, n_heads_;
  uint32_t q_[kKeySteps][4];
  float part_[kColumnTiles + 1][4] = {};  // the last: sums of p
  float item_[kColumnTiles][4] = {}, item_sum_[2] = {};
  float part_max_[2], item_max_[2] = {-INFINITY, -INFINITY};
};

#endif

__global__ __launch_bounds__(kThreads,
                             1) void mla_decode_kernel(const __grid_constant__ DecodeParams p) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 shared[];
  auto& memory = *reinterpret_cast<DecodeMemory*>(shared);
  if (threadIdx.x >= kConsumerThreads) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (lane == 0) {
      for (uint64_t& barrier : memory.full) init_barrier(&barrier, 32);
      for (uint64_t& barrier : memory.empty) init_barrier(&barrier, kWarps);
      publish_barriers();
    }
    Fetcher fetcher(p, memory, lane);
    if (lane == 0) memory.first_token = fetcher.first_token();
    __syncthreads();
    if (fetcher.first_token() >= 0)
      fetcher.run();
    else
      wait_for_previous_kernel();  // so that the kernel ends after the one before in any case
    return;
  }
  __syncthreads();
  if (memory.first_token >= 0) Multiplier(p, memory).run();
#endif
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
  const DecodeRows rows = {.batch = {a.positions.ptr<int32_t>(), a.cu_seqlens_q.ptr<int32_t>(),
                                     a.block_table.ptr<int32_t>(), a.block_table.strides[0]},
                           .n_rows = narrow(n_rows),
                           .tokens = T <= S,
                           .n_blocks = narrow(n_blocks)};
  const MlaParts parts = take_parts(exec, max_mla_items(n_rows, max_pages, n_blocks), H);
  const DecodeParams p = {.out = a.out.ptr<bf16>(),
                          .out_token_stride = a.out.strides[0],
                          .out_head_stride = a.out.strides[1],
                          .q = a.q.ptr<bf16>(),
                          .q_token_stride = a.q.strides[0],
                          .q_head_stride = a.q.strides[1],
                          .pages = a.cache.pages.ptr<std::byte>(),
                          .rows = rows,
                          .parts = parts,
                          .scale_log2 = a.softmax_scale * 1.44269504088896341f};
  launch(exec, "mla_attention",
         {.grid = dim3(static_cast<unsigned>(head_groups), static_cast<unsigned>(n_blocks)),
          .threads = kThreads,
          .shared_bytes = sizeof(DecodeMemory)},
         mla_decode_kernel, p);
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
