// linear and swiglu for 9 to 64 tokens on sm_90: a cluster reads its weights once, each of its
// blocks a quarter of K, for which it has the activations of all tokens in shared memory.
//
// Mapping   a cluster of 4 blocks has a range of units (weight_units.cuh) and goes through them in
//           groups of 4, which are 64 rows. A block has 2 of the 8 slices of K, each of its two
//           warpgroups one. Activations become operands once (TileX). A warp multiplies a unit, the
//           4 of a warpgroup together (warpgroup.cuh). Two more warps fetch, 128 bytes of every row
//           at a time, through one ring for each slice, as far ahead as it allows; they do not wait
//           for the kernel before.
// Sums      a warpgroup sends its sums of a tile of 8 tokens to the warpgroup that finishes this
//           tile, which adds those of the eight slices when the next group has been multiplied.
// Order     that of stream.cuh, bit for bit: slice w is the blocks w, w + 8, ... of 128 bytes,
//           each the sum of its two halves, scaled; slices are added from left to right.
// Needs     one group of activations, and 16 tokens of a quarter of K in shared memory (tiles_fit).
//           Where 32 or 64 tokens do not fit, several clusters take 16 or 32 each.
// Traffic   the weights once; from the L2 the activations once per cluster; from SM to SM 24 bytes
//           for every row and token.
#pragma once

#include "gemm/stream.cuh"
#include "gemm/tile_x.cuh"
#include "gemm/warpgroup.cuh"

namespace dsr::cuda {

inline constexpr int kGroupUnits = 4;
inline constexpr int kTileFetchWarps = 2, kFetchUnits = kGroupUnits / kTileFetchWarps;
inline constexpr int kTileThreads = kConsumers + kTileFetchWarps * 32;
struct alignas(128) TileStage {
  uint4 rows[kGroupUnits * 16][8];  // chunk c of row r at c ^ 4 (r % 2)
  uint32_t scales[kGroupUnits][2];  // as in StreamStage
  uint32_t shifts[kGroupUnits][2];
};
// Two blocks on an SM, of which one is the next kernel's, where registers allow it.
template <int kTiles>
inline constexpr int kTileBlocksPerSm = kTiles == 2 ? 2 : 1;

inline constexpr int kMostTileStages = 4;
// What is in shared memory; behind it the stages of every ring, then TileX.
template <int kTiles>
struct alignas(128) TileMemory {
  static constexpr int kFinished = kTiles == 8 ? 2 : 1;  // tiles that a block finishes at most
  // Of all slices, by the thread that has them; of a group while the next one is multiplied.
  float4 sums[2][kFinished][8][128];
  uint64_t full[kBlockSlices][kMostTileStages], empty[kBlockSlices][kMostTileStages];
  uint64_t sums_full[2][kFinished], sums_free[2];

  __device__ TileStage* ring(int slice, int n_stages) {
    return reinterpret_cast<TileStage*>(this + 1) + slice * n_stages;
  }
};

template <typename W, int kTiles>
int64_t tile_shared_bytes(int n_steps, int n_stages) {
  return int64_t{sizeof(TileMemory<kTiles>)} +
         n_stages * kBlockSlices * int64_t{sizeof(TileStage)} +
         blocks_of_part(n_steps) *
             int64_t{kTileBlockBytes<W, kTiles> + (W::kScaled ? kTiles * 32 : 0)};
}

#if __CUDA_ARCH__ >= 900

// Where a tile is finished: by warpgroup `index` of all.
template <int kTiles>
struct TilePlace {
  int index;
  __device__ explicit TilePlace(int tile) : index(tile * 8 / kTiles) {}
  __device__ unsigned block() const { return static_cast<unsigned>(index) / kBlockSlices; }
  __device__ int warpgroup() const { return index % kBlockSlices; }
};

// A fetching warp: its share of every group of units first .. first + n_units.
template <typename W, int kTiles, bool kPaired>
__device__ __forceinline__ void fetch_groups(const DenseWeight& w, TileMemory<kTiles>& memory,
                                             int n_stages, int rank, int first, int n_units) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x - kConsumers) / 32;
  const int row = lane / 8, chunk = lane % 8;
  constexpr bool kReadOnce = kTiles <= 4;  // to let go of them first is 1 % slower with more
  const DenseLayout& l = w.layout;
  const int n_blocks = staged_blocks(l.n_steps);
  RingPlace place[kBlockSlices];
#pragma unroll 1
  for (int group = 0; group < n_units; group += kGroupUnits) {
    const std::byte* rows[kFetchUnits][4] = {};  // row, + 4, + 8, + 12
    const std::byte* scale = nullptr;            // of low, high of every unit: a lane each
    bool there[kFetchUnits];
#pragma unroll
    for (int u = 0; u < kFetchUnits; ++u) {
      const int unit = group + warp * kFetchUnits + u;
      there[u] = unit < n_units;
      if (!there[u]) continue;
      const RowPair a = rows_of<kPaired>(w, first + unit, row * 4);
      const RowPair b = rows_of<kPaired>(w, first + unit, row * 4 + 16);
      rows[u][0] = a.low + chunk * 16, rows[u][1] = b.low + chunk * 16;
      rows[u][2] = a.high + chunk * 16, rows[u][3] = b.high + chunk * 16;
      if (lane / 2 == u) scale = lane % 2 == 0 ? a.scale_low : a.scale_high;
    }
#pragma unroll 1
    for (int block = rank * kBlockSlices; block < n_blocks; block += 8) {
#pragma unroll
      for (int h = 0; h < kBlockSlices; ++h) {
        if (block + h >= n_blocks) break;
        TileStage& stage = memory.ring(h, n_stages)[place[h].stage];
        uint64_t* full = &memory.full[h][place[h].stage];
        wait_barrier(&memory.empty[h][place[h].stage], place[h].parity ^ 1);
        place[h].advance(n_stages);
        const int step = 2 * (block + h);
        const bool valid = step + chunk / 4 < l.n_steps;
#pragma unroll
        for (int u = 0; u < kFetchUnits; ++u) {
          if (!there[u]) continue;
          uint4* to = &stage.rows[(warp * kFetchUnits + u) * 16 + row][chunk ^ row % 2 * 4];
#pragma unroll
          for (int i = 0; i < 4; ++i)
            stream_async_16<kReadOnce>(shared_address(to + i * 4 * 8),
                                       rows[u][i] + int64_t{step} * 64, valid);
        }
        if (W::kScaled && scale != nullptr) {
          const int unit = warp * kFetchUnits + lane / 2;
          const ScalePlace from = scale_place(l, scale, step);
          copy_async_4(&stage.scales[unit][lane % 2], from.word);
          if (l.ue8m0) stage.shifts[unit][lane % 2] = from.shift;
        }
        arrive_after_copies(full);
        if (W::kScaled && l.ue8m0 && lane < 2 * kFetchUnits) arrive(full);
      }
    }
  }
}

// A warpgroup that multiplies: slice `index` of K, of all units of its cluster.
template <typename W, int kTiles, bool kPaired>
class TileConsumer {
 public:
  __device__ TileConsumer(const DenseProduct& p, const TokenRange& tokens,
                          TileMemory<kTiles>& memory, int n_stages, const TileX<W, kTiles>& x,
                          int rank)
      : p_(p),
        end_token_(tokens.first + tokens.n),
        memory_(memory),
        x_(x),
        n_stages_(n_stages),
        warpgroup_(static_cast<int>(threadIdx.x) / 128),
        index_(rank * kBlockSlices + warpgroup_),
        n_tiles_(tokens.n_tiles()) {
    for (int j = 0; j < n_tiles_; ++j)
      if (TilePlace<kTiles>(j).index == index_) finishes_ = tokens.first + 8 * j;
  }

  __device__ __forceinline__ void run(int first, int n_units) {
    float acc[kTiles][4];
    const int n_groups = (n_units + kGroupUnits - 1) / kGroupUnits;
#pragma unroll 1
    for (int i = 0; i < n_groups; ++i) {
      multiply(acc);
      if (i == 0) wait_for_cluster();  // all of its blocks are there, and their barriers
      if (i >= 2) wait_barrier(&memory_.sums_free[i % 2], (i / 2 - 1) % 2);
      send_all(acc, i % 2);
      if (i == 0) continue;
      finish(first + (i - 1) * kGroupUnits, kGroupUnits, i - 1);
      if (i + 1 < n_groups) free_sums((i - 1) % 2);
    }
    finish(first + (n_groups - 1) * kGroupUnits, n_units - (n_groups - 1) * kGroupUnits,
           n_groups - 1);
  }

 private:
  __device__ __forceinline__ void multiply(float (&acc)[kTiles][4]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
    const int g = lane / 4, t = lane % 4;
    const DenseLayout& l = p_.w.layout;
    const int n_blocks = staged_blocks(l.n_steps);
#pragma unroll
    for (int j = 0; j < kTiles; ++j)
#pragma unroll
      for (int k = 0; k < 4; ++k) acc[j][k] = 0;
    int x_block = warpgroup_;
#pragma unroll 1
    for (int block = index_; block < n_blocks; block += 8, x_block += kBlockSlices) {
      const TileStage& stage = memory_.ring(warpgroup_, n_stages_)[place_.stage];
      wait_barrier(&memory_.full[warpgroup_][place_.stage], place_.parity);
      const uint4* rows = &stage.rows[warp * 16 + g][t ^ g % 2 * 4];
      const uint4* rows_1 = &stage.rows[warp * 16 + g][(t + 4) ^ g % 2 * 4];
      const uint4 low[2] = {rows[0], rows_1[0]}, high[2] = {rows[8 * 8], rows_1[8 * 8]};
      float scale_low = 1, scale_high = 1;
      if constexpr (W::kScaled) {
        scale_low = scale_value(l, {stage.scales[warp][0], stage.shifts[warp][0]});
        scale_high = scale_value(l, {stage.scales[warp][1], stage.shifts[warp][1]});
      }
      BlockWeights<W> weights;
      expand_block<W>(low, high, weights);
      float sum[2][kTiles][4];
      products(weights, x_block, sum);
      // Behind the products, which need what is read of the stage: the arrival overtakes loads.
      __syncwarp();
      arrive(&memory_.empty[warpgroup_][place_.stage]);
      place_.advance(n_stages_);
      const float* units = x_.units + x_block * kTiles * 8 + 2 * t;
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        float2 unit = make_float2(1, 1);
        if constexpr (W::kScaled) unit = *reinterpret_cast<const float2*>(units + j * 8);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const float both = sum[0][j][k] + sum[1][j][k];
          if constexpr (W::kScaled)
            acc[j][k] = fmaf(both * (k % 2 == 0 ? unit.x : unit.y), k < 2 ? scale_low : scale_high,
                             acc[j][k]);
          else
            acc[j][k] += both;
        }
      }
    }
  }

  // Each of the two steps for itself: chains that do not wait for each other.
  __device__ __forceinline__ void products(const BlockWeights<W>& w, int x_block,
                                           float (&sum)[2][kTiles][4]) const {
    const uint32_t x = shared_address(x_.operands + x_block * kTileBlockBytes<W, kTiles>);
    begin_wgmma();
#pragma unroll
    for (int p = 0; p < W::kProducts; ++p)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int at = (i * W::kProducts + p) / 2 * kTilePairBytes<kTiles> + p % 2 * kTiles * 256;
        product<W::kScaled>(sum[i], w.a[i][p],
                            tokens_operand(x + static_cast<uint32_t>(at), kTiles), p > 0);
      }
    commit_wgmma();
    wait_for_wgmma();
  }

  __device__ __forceinline__ void send_all(const float (&acc)[kTiles][4], int buffer) {
    const int thread = static_cast<int>(threadIdx.x) % 128;
    if (finishes_ >= 0 && thread == 0)
      arrive_expecting(&memory_.sums_full[buffer][warpgroup_], sizeof(memory_.sums[0][0]));
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      const TilePlace<kTiles> place(j);
      if (j < n_tiles_)
        send(place.block(), &memory_.sums[buffer][place.warpgroup()][index_][thread], acc[j],
             &memory_.sums_full[buffer][place.warpgroup()]);
    }
  }

  // Adds up this warpgroup's tile of group i, its n_units from `unit`.
  __device__ __forceinline__ void finish(int unit, int n_units, int i) {
    if (finishes_ < 0) return;
    const int thread = static_cast<int>(threadIdx.x) % 128;
    wait_barrier(&memory_.sums_full[i % 2][warpgroup_], i / 2 % 2);
    const float4* from = &memory_.sums[i % 2][warpgroup_][0][thread];
    float4 sum = from[0];
#pragma unroll
    for (int w = 1; w < 8; ++w) {
      const float4 v = from[w * 128];
      sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    if (thread / 32 >= n_units) return;
    const int row = thread % 32 / 4, token = finishes_ + thread % 4 * 2;
    const UnitColumns columns = columns_of<kPaired>(p_.w, unit + thread / 32);
    store(columns, row, token, sum.x, sum.z);
    store(columns, row, token + 1, sum.y, sum.w);
  }
  // Row `row` of the unit and row + 8.
  __device__ __forceinline__ void store(const UnitColumns& columns, int row, int token, float low,
                                        float high) const {
    if (token >= end_token_) return;
    const int64_t at = token * p_.out_stride + columns.first + row;
    if constexpr (kPaired) {
      if (row < columns.n) store_as(p_.out, p_.out_f32, at, silu(low) * high);
    } else {
      const float* bias = p_.bias == nullptr ? nullptr : p_.bias + columns.first + row;
      if (row < columns.n) store_as(p_.out, p_.out_f32, at, bias == nullptr ? low : low + bias[0]);
      if (row + 8 < columns.n)
        store_as(p_.out, p_.out_f32, at + 8, bias == nullptr ? high : high + bias[8]);
    }
  }

  // This warp has read the sums that were sent to this block.
  __device__ __forceinline__ void free_sums(int buffer) {
    __syncwarp();
    const unsigned lane = threadIdx.x % 32;
    if (lane < kClusterBlocks) arrive_at(lane, &memory_.sums_free[buffer]);
  }

  const DenseProduct& p_;
  TileMemory<kTiles>& memory_;
  const TileX<W, kTiles> x_;
  const int end_token_, n_stages_, warpgroup_, index_, n_tiles_;
  int finishes_ = -1;  // the tile that begins with this token
  RingPlace place_;
};

// All threads of the block.
template <int kTiles>
__device__ __forceinline__ void init_tiles(TileMemory<kTiles>& memory, bool ue8m0) {
  if (threadIdx.x == 0) {
    for (int h = 0; h < kBlockSlices; ++h)
      for (int s = 0; s < kMostTileStages; ++s) {
        init_barrier(&memory.full[h][s], kTileFetchWarps * 32 + (ue8m0 ? 2 * kGroupUnits : 0));
        init_barrier(&memory.empty[h][s], 128);
      }
    for (int buffer = 0; buffer < 2; ++buffer) {
      for (uint64_t& full : memory.sums_full[buffer]) init_barrier(&full, 1);
      init_barrier(&memory.sums_free[buffer], kClusterBlocks * kStreamWarps);
    }
    publish_barriers();
  }
  __syncthreads();
}
#endif

template <typename W, int kTiles, bool kPaired>
__global__ __launch_bounds__(kTileThreads, kTileBlocksPerSm<kTiles>) void tiles_kernel(
    const __grid_constant__ DenseProduct p, int n_stages) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 shared[];
  auto& memory = *reinterpret_cast<TileMemory<kTiles>*>(shared);
  init_tiles(memory, W::kScaled && p.w.layout.ue8m0);
  arrive_at_cluster();
  const int rank = static_cast<int>(rank_in_cluster());
  const int64_t n = p.w.n_units, cluster = blockIdx.x / kClusterBlocks;
  const int64_t n_clusters = gridDim.x / kClusterBlocks;
  const auto first = static_cast<int>(cluster * n / n_clusters);
  const auto n_units = static_cast<int>((cluster + 1) * n / n_clusters) - first;
  if (threadIdx.x >= kConsumers) {
    fetch_groups<W, kTiles, kPaired>(p.w, memory, n_stages, rank, first, n_units);
    wait_for_cluster();
    return;
  }
  wait_for_previous_kernel();
  const int first_token = static_cast<int>(blockIdx.y) * kTiles * 8;
  const TokenRange tokens = {first_token, min(kTiles * 8, p.n_tokens - first_token)};
  const TileX<W, kTiles> x(reinterpret_cast<std::byte*>(memory.ring(kBlockSlices, n_stages)),
                           p.w.layout.n_steps);
  stage_tiles(p, tokens, x, rank);
  fence_for_wgmma();
  consumers_barrier();
  TileConsumer<W, kTiles, kPaired>(p, tokens, memory, n_stages, x, rank).run(first, n_units);
#endif
}

// Stages of a ring: as many as fit, or 0.
template <typename W, int kTiles>
int tile_stages(Exec& exec, const DenseProduct& p) {
  const auto bytes = [&](int n) { return tile_shared_bytes<W, kTiles>(p.w.layout.n_steps, n); };
  const bool half = kTileBlocksPerSm<kTiles> == 2 && bytes(3) <= kHalfSmBytes;
  const int64_t most = half ? kHalfSmBytes : exec.cuda().shared_bytes_per_block();
  int n = kMostTileStages;
  while (n >= 2 && bytes(n) > most) --n;
  return n < 2 ? 0 : n;
}

template <typename W, int kTiles, bool kPaired>
void launch_tiles(Exec& exec, const char* op, const DenseProduct& p) {
  const int n_stages = tile_stages<W, kTiles>(exec, p);
  LaunchShape shape = {.grid = {},
                       .threads = kTileThreads,
                       .shared_bytes = tile_shared_bytes<W, kTiles>(p.w.layout.n_steps, n_stages),
                       .cluster = kClusterBlocks};
  const auto kernel = tiles_kernel<W, kTiles, kPaired>;
  // As many as run with a block on each SM.
  LaunchShape alone = shape;
  alone.shared_bytes = std::max(shape.shared_bytes, kAloneBytes);
  const int64_t clusters = clusters_at_once(exec, op, alone, kernel);
  const int64_t groups = (p.w.n_units + kGroupUnits - 1) / kGroupUnits;
  const int64_t ranges = (p.n_tokens + kTiles * 8 - 1) / (kTiles * 8);
  const int64_t each = std::min(groups, std::max<int64_t>(clusters / ranges, 1));
  shape.grid = dim3(static_cast<unsigned>(each * kClusterBlocks), static_cast<unsigned>(ranges));
  launch(exec, op, shape, kernel, p, n_stages);
}

// Calls f with the type of the weights and the tiles of 8 tokens that a cluster takes: all there
// are, or as many as fit in its memory. Whether there is such a number.
template <typename F>
bool with_cluster_tiles(Exec& exec, const DenseProduct& p, const F& f) {
  const auto with = [&](auto weight) {
    using W = decltype(weight);
    const std::integral_constant<int, 2> two;
    const std::integral_constant<int, 4> four;
    const std::integral_constant<int, 8> eight;
    if (tile_stages<W, two>(exec, p) == 0) return false;
    if (p.n_tokens > 32 && tile_stages<W, eight>(exec, p) > 0)
      f(weight, eight);
    else if (p.n_tokens > 16 && tile_stages<W, four>(exec, p) > 0)
      f(weight, four);
    else
      f(weight, two);
    return true;
  };
  return p.w.layout.fp8 ? with(Fp8Weight{}) : with(Bf16Weight{});
}
template <bool kPaired>
void run_tiles(Exec& exec, const char* op, const DenseProduct& p) {
  with_cluster_tiles(exec, p, [&](auto weight, auto tiles) {
    launch_tiles<decltype(weight), tiles.value, kPaired>(exec, op, p);
  });
}

}  // namespace dsr::cuda
