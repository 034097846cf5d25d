// The activations of the stream kernels (stream.cuh): how they get from where they lie into the
// operands of a warp.
//
// A warp takes a block of K at a time, 128 bytes of each of its unit's rows: two steps. As many
// activations, 64 of bf16 or 128 of FP8's, are its BlockX. FP8: they become f16 on the way, in the
// same way wherever that happens, so that a token's bits do not depend on it.
#pragma once

#include "gemm/half_operands.cuh"

namespace dsr::cuda {

inline constexpr int kStreamWarps = 8, kConsumers = kStreamWarps * 32;  // those that multiply

// FP8: a block's activations as f16 (half_operands.cuh) in shared memory, made once instead of for
// every unit.
struct StagedX {
  std::byte* rows;  // [n_rows], each of n_blocks times 128 columns with zeros past the end
  float* units;     // [n_rows, n_blocks]
  int n_rows, n_blocks;
};
// 16 more than the columns take: rows of neighbouring tokens lie in different banks.
__host__ __device__ constexpr int staged_row_bytes(int n_blocks) { return n_blocks * 256 + 16; }
__host__ __device__ constexpr int staged_blocks(int n_steps) { return (n_steps + 1) / 2; }
__host__ __device__ constexpr int64_t staged_bytes(int n_rows, int n_steps) {
  const int n_blocks = staged_blocks(n_steps);
  return (int64_t{n_rows} * (staged_row_bytes(n_blocks) + n_blocks * 4) + 15) / 16 * 16;
}

#if __CUDA_ARCH__ >= 900

// A lane's part of a tile's activations in two steps.
template <typename W>
struct BlockX {
  uint4 x[2][W::kXChunks];
  float units[2];  // FP8: of tokens 2 t and 2 t + 1
};
// `x` is the row of this lane's token; of the second step if there is one, else zeros.
template <typename W>
__device__ __forceinline__ void load_x(const std::byte* x, int step, bool whole, int lane,
                                       BlockX<W>& out) {
  const auto* from = reinterpret_cast<const uint4*>(x + step * (W::kStepColumns * 2) +
                                                    lane % 4 * (W::kXChunks * 16));
#pragma unroll
  for (int c = 0; c < W::kXChunks; ++c) {
    out.x[0][c] = from[c];
    out.x[1][c] = whole ? from[W::kStepColumns / 8 + c] : make_uint4(0, 0, 0, 0);
  }
}

// What was loaded, as operands.
__device__ __forceinline__ void make_operands(BlockX<Fp8Weight>& x, int lane) {
  auto* pairs = reinterpret_cast<uint32_t*>(&x.x);
  uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < 16; ++i) largest = HalfUnit::larger(largest, pairs[i]);
  const HalfUnit unit = HalfUnit::of<4>(largest);
#pragma unroll
  for (int i = 0; i < 16; ++i) pairs[i] = unit.quotients(pairs[i]);
  x.units[0] = __shfl_sync(0xffffffffu, unit.value(), lane % 4 * 8);
  x.units[1] = __shfl_sync(0xffffffffu, unit.value(), lane % 4 * 8 + 4);
}
__device__ __forceinline__ void make_operands(BlockX<Bf16Weight>&, int) {}

// Where StagedX lies in `memory`.
__device__ __forceinline__ StagedX staged_in(std::byte* memory, int n_rows, int n_steps) {
  const int n_blocks = staged_blocks(n_steps);
  return {memory, reinterpret_cast<float*>(memory + n_rows * staged_row_bytes(n_blocks)), n_rows,
          n_blocks};
}
// Stages rows of activations, by all multiplying warps; what they have staged is there for all
// after consumers_barrier(). A thread takes kAtOnce chunks of 8 columns at a time: load() and
// store() in turn until done(), so that several of these can have their loads under way together.
template <int kAtOnce>
class Stager {
 public:
  __device__ Stager(const StagedX& to, const std::byte* x, int64_t x_stride_bytes, int n_steps)
      : to_(to),
        x_(x),
        x_stride_bytes_(x_stride_bytes),
        row_chunks_(n_steps * 8),
        reciprocal_(0xffffffffu / static_cast<unsigned>(to.n_blocks) + 1),
        n_((to.n_rows * to.n_blocks * kLanes + 31) / 32 * 32),
        at_(static_cast<int>(threadIdx.x)) {}
  __device__ __forceinline__ bool done() const { return at_ >= n_; }
  __device__ __forceinline__ void load() {
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const int i = at_ + k * kConsumers, row = row_of(i / kLanes);
      const int chunk = i - row * to_.n_blocks * kLanes;
      v_[k] = make_uint4(0, 0, 0, 0);
      if (row < to_.n_rows && chunk < row_chunks_)
        v_[k] = reinterpret_cast<const uint4*>(x_ + row * x_stride_bytes_)[chunk];
    }
  }
  __device__ __forceinline__ void store() {
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const int i = at_ + k * kConsumers, block = i / kLanes, row = row_of(block);
      if (i >= n_) break;  // all lanes of a warp
      const uint4& v = v_[k];
      uint32_t largest = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) largest = HalfUnit::larger(largest, word_of(v, j));
      const HalfUnit unit = HalfUnit::of<kLanes>(largest);
      if (row >= to_.n_rows) continue;
      auto* out = reinterpret_cast<uint4*>(to_.rows + row * staged_row_bytes(to_.n_blocks));
      out[i - row * to_.n_blocks * kLanes] = make_uint4(unit.quotients(v.x), unit.quotients(v.y),
                                                        unit.quotients(v.z), unit.quotients(v.w));
      if (i % kLanes == 0) to_.units[block] = unit.value();
    }
    at_ += kAtOnce * kConsumers;
  }

 private:
  static constexpr int kLanes = 16;  // of a block of 128 columns

  // block / n_blocks, for blocks of the little that fits in shared memory.
  __device__ __forceinline__ int row_of(int block) const {
    return to_.n_blocks == 1
               ? block
               : static_cast<int>(__umulhi(static_cast<unsigned>(block), reciprocal_));
  }

  const StagedX to_;
  const std::byte* const x_;
  const int64_t x_stride_bytes_;
  const int row_chunks_;
  const unsigned reciprocal_;
  const int n_;
  int at_;
  uint4 v_[kAtOnce];
};
__device__ __forceinline__ void stage_x(const StagedX& to, const std::byte* x,
                                        int64_t x_stride_bytes, int n_steps) {
  for (Stager<4> stager(to, x, x_stride_bytes, n_steps); !stager.done();) {
    stager.load();
    stager.store();
  }
}

// Staged activations of one unit, as a lane reads them.
class StagedUnitX {
 public:
  // row(i): which of the rows is that of the unit's i-th token.
  template <typename Row>
  __device__ StagedUnitX(const StagedX& from, int n_tokens, int lane, const Row& row) {
    const auto row_of = [&](int i) { return row(min(i, n_tokens - 1)); };
    x_ = reinterpret_cast<const uint4*>(
        from.rows + row_of(lane / 4) * staged_row_bytes(from.n_blocks) + lane % 4 * 32);
    units_[0] = from.units + row_of(lane % 4 * 2) * from.n_blocks;
    units_[1] = from.units + row_of(lane % 4 * 2 + 1) * from.n_blocks;
  }
  __device__ __forceinline__ void take(int step, int, BlockX<Fp8Weight>& out) const {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      out.x[0][c] = x_[step * 8 + c];
      out.x[1][c] = x_[step * 8 + 8 + c];
    }
    out.units[0] = units_[0][step / 2];
    out.units[1] = units_[1][step / 2];
  }

 private:
  const uint4* x_;
  const float* units_[2];
};
// For jobs whose units have rows of the same activations.
struct SharedStagedX {
  StagedX staged;
  template <typename Job>
  __device__ __forceinline__ StagedUnitX at(const Job& job, const typename Job::Unit& unit,
                                            int lane) const {
    return {staged, job.n_tokens(unit), lane, [&](int i) { return job.row(unit, i); }};
  }
};

// The first tile's activations of a warp's blocks, each fetched when the warp begins with the one
// before: they come from the L2, mostly.
template <typename W, typename Job>
class XAhead {
 public:
  // Of n_units from `unit`.
  __device__ XAhead(const Job& job, typename Job::Unit unit, int n_units)
      : job_(job), unit_(unit), n_left_(n_units) {
    enter();
    fetch();
  }
  __device__ __forceinline__ XAhead& at(const Job&, const typename Job::Unit&, int) {
    return *this;
  }
  // Those of the next block, and fetches the ones after.
  __device__ __forceinline__ void take(int, int lane, BlockX<W>& out) {
    out = next_;
    make_operands(out, lane);
    step_ += 2 * kStreamWarps;
    if (step_ >= n_steps_) {
      job_.next(unit_);
      --n_left_;
      enter();
    }
    fetch();
  }

 private:
  // The first of the units from unit_ that has a block for this warp.
  __device__ __forceinline__ void enter() {
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    for (; n_left_ > 0; --n_left_, job_.next(unit_)) {
      n_steps_ = job_.layout(unit_).n_steps;
      step_ = 2 * warp;
      if (step_ >= n_steps_) continue;
      x_ = job_.x(unit_, job_.row(unit_, min(lane / 4, job_.n_tokens(unit_) - 1)));
      return;
    }
  }
  __device__ __forceinline__ void fetch() {
    if (n_left_ > 0)
      load_x<W>(x_, step_, step_ + 1 < n_steps_, static_cast<int>(threadIdx.x) % 32, next_);
  }

  const Job& job_;
  typename Job::Unit unit_;
  int n_left_, step_ = 0, n_steps_ = 0;
  const std::byte* x_ = nullptr;
  BlockX<W> next_;
};

#endif

}  // namespace dsr::cuda
