// The loop of the routed experts' kernels on sm_90 where a warp has a unit of 16 rows for itself.
//
// Mapping   a multiplying warp has one stage of the ring (stream.cuh) for itself, its slot (where
//           there are fewer stages than warps the last ones have none and no work), and takes every
//           n-th unit of its block's, 1 KB of each row at a time. So a unit's sums stay
//           in registers from its first block of K to its last, and warps never wait for each
//           other: with K = 2048 or 1408 sharing out one unit over eight warps cost more than its
//           products. The fetching warps go round the slots.
// Order     the blocks of 128 bytes of K in ascending order; a block is the sum of its two halves,
//           scaled.
// Operands  activations lie in shared memory, for FP8 as f16 (half_operands.cuh), for the 8 or 16
//           tokens of an expert at a time. With many tokens the fetching warps bring those of the
//           next expert, while the others still multiply with the ones before if there is memory
//           for both; one token's rows are there from the start.
#pragma once

#include "gemm/stream.cuh"
#include "moe/expert_rows.cuh"
#include "moe/stream_lists.cuh"

namespace dsr::cuda {

#if __CUDA_ARCH__ >= 900

// Stages up to kRows rows of activations; their loads are under way together. A row that is null is
// left out. By n_parts warps, each its `part`.
template <typename W, int kRows>
__device__ __forceinline__ void stage_rows(const std::byte* const (&from)[kRows],
                                           std::byte* const (&to)[kRows],
                                           float* const (&units)[kRows], int n_steps, int part,
                                           int n_parts) {
  constexpr int kAtOnce = 8, kChunks = StagedRows<W>::kChunks;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int n = staged_blocks(n_steps) * kChunks, n_there = n_steps * W::kStepColumns / 8;
  for (int first = part * 32; first < n; first += 32 * kAtOnce * n_parts) {
    uint4 v[kRows][kAtOnce];
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int i = first + k * 32 * n_parts + lane;
        v[r][k] = make_uint4(0, 0, 0, 0);
        if (from[r] != nullptr && i < n_there) v[r][k] = reinterpret_cast<const uint4*>(from[r])[i];
      }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (from[r] == nullptr) continue;  // the same for all lanes
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int i = first + k * 32 * n_parts + lane;
        if (i - lane >= n) break;
        stage_chunk<W>(v[r][k], i < n, i, reinterpret_cast<uint4*>(to[r]) + i,
                       units[r] + i / kChunks);
      }
    }
  }
}

// acc += the blocks of a stage, whose first step is `step`, times n_tiles tiles of tokens.
template <typename W, int kTiles>
__device__ __forceinline__ void add_stage(const DenseLayout& l, const StreamStage& stage, int step,
                                          const StagedTile<W> (&x)[kTiles], int n_tiles,
                                          float (&acc)[kTiles][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const auto* rows =
      reinterpret_cast<const uint4*>(&stage.rows[0][0] + lane / 4 * kRowPitch + lane % 4 * 16);
  constexpr int kHigh = 8 * kRowPitch / 16;
  const int n_blocks = min(staged_blocks(l.n_steps - step), kStreamWarps);
#pragma unroll 2
  for (int b = 0; b < n_blocks; ++b) {
    const bool whole = step + 2 * b + 1 < l.n_steps;
    const uint4 zero = make_uint4(0, 0, 0, 0);
    const uint4 low[2] = {rows[8 * b], whole ? rows[8 * b + 4] : zero};
    const uint4 high[2] = {rows[kHigh + 8 * b], whole ? rows[kHigh + 8 * b + 4] : zero};
    BlockWeights<W> weights;
    expand_block<W>(low, high, weights);
    float scale_low = 1, scale_high = 1;
    if constexpr (W::kScaled) {
      scale_low = scale_value(l, {stage.scales[0][b], stage.shifts[0][b]});
      scale_high = scale_value(l, {stage.scales[1][b], stage.shifts[1][b]});
    }
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      if (j > 0 && j >= n_tiles) break;
      BlockX<W> tile;
      x[j].take(step / 2 + b, lane, tile);
      add_block(weights, tile, scale_low, scale_high, acc[j]);
    }
  }
}

// How often a slot has been filled and emptied when the ring, stage after stage, has gone through
// n_stages (stream.cuh's loop, before this one).
__device__ __forceinline__ uint32_t turns_of(int slot, int n_slots, int n_stages) {
  return static_cast<uint32_t>((n_stages + n_slots - 1 - slot) / n_slots);
}
__device__ __forceinline__ int stages_per_unit(const DenseLayout& l) {
  return (l.n_steps + 2 * kStreamWarps - 1) / (2 * kStreamWarps);
}

// Which slot the i-th of the units has that are fetched together, when n_stages have gone through
// the ring: those come first that are empty first.
__device__ __forceinline__ int slot_of(int i, int n_slots, int n_stages) {
  return (n_stages + i) % n_slots;
}

// A fetching warp, on its way round the slots: stage after stage of as many units as there are
// slots, then of the next ones. Lane 4 i + r has row and scale r of this warp's of the i-th unit.
template <typename W, typename Job>
class SlotProducer {
 public:
  // n_stages: those that have gone through the ring before.
  __device__ SlotProducer(const Job& job, const RingView& slots, int n_stages)
      : job_(job), slots_(slots), first_slot_(slot_of(0, slots.n_stages, n_stages)) {
    const int i = static_cast<int>(threadIdx.x) % 32 / 4;
    turn_ = turns_of(slot_of(i, slots.n_stages, n_stages), slots.n_stages, n_stages);
  }

  // A stage of each of the n units from `unit`, then the next, until all of their stages are under
  // way. n is the number of slots, or less. Calls between() after the first stages.
  template <typename Between>
  __device__ __forceinline__ void fetch(typename Job::Unit unit, int n, const Between& between) {
    const int lane = static_cast<int>(threadIdx.x) % 32, mine = lane / 4;
    const int item = static_cast<int>(threadIdx.x - kConsumers) / 32 * kFetchRows + lane % 4;
    const DenseLayout& l = job_.layout(unit);
    const int n_bytes = l.n_steps * 64;
    for (int i = 0; i < min(mine, n - 1); ++i) job_.next(unit);
    const RowPair r = job_.rows(unit, item % 8 * 4);
    const std::byte* row = item < 8 ? r.low : r.high;
    const std::byte* scale = item < 8 ? r.scale_low : r.scale_high;
#pragma unroll 1
    for (int at = 0; at < n_bytes; at += kStageBytes) {
      const int bytes = min(kStageBytes, n_bytes - at);
      int slot = first_slot_;
#pragma unroll 1
      for (int i = 0; i < n; ++i, slot = slot + 1 == slots_.n_stages ? 0 : slot + 1) {
        const uint32_t turn = __shfl_sync(0xffffffffu, turn_, i * 4);
        wait_barrier(&slots_.empty[slot], (turn & 1) ^ 1);
        if (lane == i * 4)
          arrive_expecting(&slots_.full[slot], static_cast<uint32_t>(kFetchRows * bytes));
        __syncwarp();
        if (mine != i) continue;
        StreamStage& stage = slots_.stages[slot];
        copy_bulk_evict_first(stage.rows[item], row + at, static_cast<uint32_t>(bytes),
                              &slots_.full[slot]);
        if constexpr (W::kScaled) fetch_stage_scale(l, scale, at, item, stage, &slots_.full[slot]);
      }
      if (mine < n) ++turn_;
      if (at == 0) between();
    }
  }

 private:
  static_assert(kFetchRows == 4 && kStreamWarps * kFetchRows <= 32);
  const Job& job_;
  const RingView slots_;
  const int first_slot_;
  uint32_t turn_;  // of the slot of this lane's unit
};

// A multiplying warp's slot.
class MySlot {
 public:
  // It is empty after so many arrivals, a multiple of 32.
  __device__ MySlot(const RingView& slots, int slot, int n_stages, int n_arrivals)
      : stage_(&slots.stages[slot]),
        full_(&slots.full[slot]),
        empty_(&slots.empty[slot]),
        n_arrivals_(n_arrivals / 32),
        parity_(turns_of(slot, slots.n_stages, n_stages) & 1) {}
  __device__ __forceinline__ const StreamStage& wait() const {
    wait_barrier(full_, parity_);
    return *stage_;
  }
  __device__ __forceinline__ void release() {
    arrive_for(empty_, n_arrivals_);
    parity_ ^= 1;
  }

 private:
  const StreamStage* const stage_;
  uint64_t *const full_, *const empty_;
  const int n_arrivals_;  // of a thread
  uint32_t parity_;
};

// acc = a unit's rows times its tokens.
template <typename W, int kTiles>
__device__ __forceinline__ void multiply_unit(const DenseLayout& l, MySlot& slot,
                                              const StagedTile<W> (&x)[kTiles], int n_tiles,
                                              float (&acc)[kTiles][4]) {
#pragma unroll 1
  for (int step = 0; step < l.n_steps; step += 2 * kStreamWarps) {
    add_stage(l, slot.wait(), step, x, n_tiles, acc);
    slot.release();
  }
}

#endif

}  // namespace dsr::cuda
