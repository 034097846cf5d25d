// linear, swiglu and the head-wise products for up to 64 tokens on sm_90. See stream.cuh.
#pragma once

#include "gemm/linear_kernels.h"
#include "gemm/stream.cuh"

namespace dsr::cuda {

#if __CUDA_ARCH__ >= 900
template <int kTiles, bool kPaired>
class DenseStream {
 public:
  using Unit = int;
  __device__ DenseStream(const DenseProduct& p, float* sums) : p_(p), held_(sums, p.n_tokens) {}

  __device__ __forceinline__ void next(Unit& unit) const { ++unit; }
  __device__ __forceinline__ const DenseLayout& layout(Unit) const { return p_.w.layout; }
  __device__ __forceinline__ RowPair rows(Unit unit, int lane) const {
    return rows_of<kPaired>(p_.w, unit, lane);
  }
  __device__ __forceinline__ int n_tokens(Unit) const { return p_.n_tokens; }
  __device__ __forceinline__ int row(Unit, int i) const { return i; }
  __device__ __forceinline__ const std::byte* x(Unit unit, int row) const {
    const int group = unit < p_.w.units_per_group ? 0 : unit / p_.w.units_per_group;
    return p_.x + row * p_.x_stride_bytes + group * p_.x_group_bytes;
  }
  __device__ __forceinline__ void finish(Unit unit, const float (&acc)[kTiles][4], bool last) {
    held_.template keep<kPaired ? 8 : 16>(*this, unit, acc, last);
  }
  __device__ __forceinline__ void store(Unit unit, int token, int row, const float* sums) const {
    const UnitColumns columns = columns_of<kPaired>(p_.w, unit);
    if (row >= columns.n) return;
    float value = total(sums, p_.n_tokens, token, row);
    if constexpr (kPaired) {
      value = silu(value) * total(sums, p_.n_tokens, token, row + 8);
    } else if (p_.bias != nullptr) {
      value += p_.bias[columns.first + row];
    }
    store_as(p_.out, p_.out_f32, token * p_.out_stride + columns.first + row, value);
  }

 private:
  const DenseProduct& p_;
  HeldSums<Unit, kTiles> held_;
};
#endif

// Of equal parts for all blocks, that of this one.
struct UnitRange {
  int first, n;
};
__device__ __forceinline__ UnitRange part_of_block(int64_t n_units) {
  const int64_t b = blockIdx.x;
  const auto first = static_cast<int>(b * n_units / gridDim.x);
  return {first, static_cast<int>((b + 1) * n_units / gridDim.x) - first};
}

template <typename W, int kTiles, bool kPaired, bool kStaged, int kStages>
__global__ __launch_bounds__(kStreamThreads,
                             kStages == kStreamStages
                                 ? kStreamBlocksPerSm<W, kTiles, kStaged>
                                 : 1) void stream_kernel(const __grid_constant__ DenseProduct p) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 shared[];
  auto* const memory = reinterpret_cast<Ring<kStages>*>(shared);
  const RingView ring = memory->view();
  init_ring(ring, W::kScaled, p.w.layout.ue8m0);
  const auto [first, n_units] = part_of_block(p.w.n_units);
  using Job = DenseStream<kTiles, kPaired>;
  Job job(p, reinterpret_cast<float*>(memory + 1));
  if (threadIdx.x >= kConsumers) {
    StreamProducer<W, Job> producer(job, ring);
    producer.go_to(first);
    producer.run(n_units, 1 << 30);
    return;
  }
  wait_for_previous_kernel();
  RingPlace place;
  if constexpr (kStaged) {
    auto* rows = reinterpret_cast<std::byte*>(memory + 1) + held_sums_bytes(p.n_tokens);
    const StagedX staged = staged_in<W>(rows, p.n_tokens, p.w.layout.n_steps);
    stage_x(staged, p.x, p.x_stride_bytes, p.w.layout.n_steps);
    consumers_barrier();
    consume<W, kTiles>(job, ring, place, first, n_units, SharedStagedX{staged});
  } else {
    consume<W, kTiles>(job, ring, place, first, n_units, XAhead<W, Job>(job, first, n_units));
  }
#endif
}

template <int kStages = kStreamStages>
int64_t stream_shared_bytes(const DenseProduct& p, bool staged) {
  return int64_t{sizeof(Ring<kStages>)} + held_sums_bytes(p.n_tokens) +
         (staged ? StagedRows<Fp8Weight>::bytes(p.n_tokens, p.w.layout.n_steps) : 0);
}

// A block that is alone on its SM has a longer ring, if it goes through it often: so that nearly as
// much is on its way as for two blocks, and half of an SM's memory but for a few KB is left to one
// of the next kernel's.
inline constexpr int kLongFor = 16;  // stages of weights
inline constexpr int64_t kLongBytes = 135 * 1024;
template <bool kStaged>
inline constexpr int kLongStages = kStaged ? 6 : 7;

template <typename W, int kTiles, bool kPaired, bool kStaged, int kStages>
void launch_blocks(Exec& exec, const char* op, const DenseProduct& p, int64_t blocks) {
  launch(exec, op,
         {.grid = dim3(static_cast<unsigned>(blocks)),
          .threads = kStreamThreads,
          .shared_bytes = stream_shared_bytes<kStages>(p, kStaged)},
         stream_kernel<W, kTiles, kPaired, kStaged, kStages>, p);
}
template <typename W, int kTiles, bool kPaired, bool kStaged>
void launch_stream(Exec& exec, const char* op, const DenseProduct& p) {
  const int64_t n_sms = exec.cuda().n_sms();
  const int64_t blocks = stream_blocks(p.w.n_units, n_sms, kStreamBlocksPerSm<W, kTiles, kStaged>);
  if constexpr (kTiles == 1 && !kPaired) {
    constexpr int kLong = kLongStages<kStaged>;
    const int64_t stages = p.w.n_units / blocks * ((p.w.layout.n_steps + 15) / 16);
    if (blocks <= n_sms && stages >= kLongFor &&
        stream_shared_bytes<kLong>(p, kStaged) <= kLongBytes)
      return launch_blocks<W, kTiles, kPaired, kStaged, kLong>(exec, op, p, blocks);
  }
  launch_blocks<W, kTiles, kPaired, kStaged, kStreamStages>(exec, op, p, blocks);
}

template <bool kPaired>
void run_stream(Exec& exec, const char* op, const DenseProduct& p) {
  with_tiles(p.w.layout.fp8, p.n_tokens, [&](auto weight, auto tiles) {
    using W = decltype(weight);
    if constexpr (W::kScaled && tiles.value == 1) {
      if (p.w.n_units == p.w.units_per_group && stream_shared_bytes(p, true) <= kHalfSmBytes)
        return launch_stream<W, 1, kPaired, true>(exec, op, p);
    }
    launch_stream<W, tiles.value, kPaired, false>(exec, op, p);
  });
}

}  // namespace dsr::cuda
