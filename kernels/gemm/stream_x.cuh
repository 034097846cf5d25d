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

// Of so many steps of 64 bytes.
__host__ __device__ constexpr int staged_blocks(int n_steps) { return (n_steps + 1) / 2; }

// Staged rows of K columns, in shared memory: operands of whole blocks, with zeros past the end,
// and a pad that keeps neighbouring rows in different banks. FP8: as f16 (half_operands.cuh), made
// once instead of for every unit; behind the rows the unit of every block.
template <typename W>
struct StagedRows {
  static constexpr int kBlockBytes = W::kScaled ? 256 : 128;
  static constexpr int kChunks = kBlockBytes / 16;
  __host__ __device__ static constexpr int pitch(int n_blocks) {
    return n_blocks * kBlockBytes + (W::kScaled ? 16 : 64);
  }
  __host__ __device__ static constexpr int64_t bytes(int n_rows, int n_steps) {
    const int n_blocks = staged_blocks(n_steps);
    return (int64_t{n_rows} * (pitch(n_blocks) + (W::kScaled ? n_blocks * 4 : 0)) + 15) / 16 * 16;
  }
  __host__ __device__ static float* units(std::byte* rows, int n_rows, int n_blocks) {
    return reinterpret_cast<float*>(rows + int64_t{n_rows} * pitch(n_blocks));
  }
};
// FP8's, where they lie.
struct StagedX {
  std::byte* rows;  // [n_rows], each of n_blocks times 128 columns
  float* units;     // [n_rows, n_blocks]
  int n_rows, n_blocks;
};

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
  uint32_t largest[4] = {};
#pragma unroll
  for (int i = 0; i < 16; ++i) largest[i % 4] = HalfUnit::larger(largest[i % 4], pairs[i]);
  const HalfUnit unit =
      HalfUnit::of<4>(__vmaxu2(__vmaxu2(largest[0], largest[1]), __vmaxu2(largest[2], largest[3])));
#pragma unroll
  for (int i = 0; i < 16; ++i) pairs[i] = unit.quotients(pairs[i]);
  x.units[0] = __shfl_sync(0xffffffffu, unit.value(), lane % 4 * 8);
  x.units[1] = __shfl_sync(0xffffffffu, unit.value(), lane % 4 * 8 + 4);
}
__device__ __forceinline__ void make_operands(BlockX<Bf16Weight>&, int) {}

// 16 bytes of activations as they are staged: chunk `chunk` of its row, the same one of their rows
// in all lanes of a block. `unit` is where that of the block goes.
template <typename W>
__device__ __forceinline__ void stage_chunk(const uint4& v, bool there, int chunk, uint4* to,
                                            float* unit) {
  uint4 out = v;
  if constexpr (W::kScaled) {
    constexpr int kLanes = StagedRows<W>::kChunks;
    uint32_t largest = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) largest = HalfUnit::larger(largest, word_of(v, j));
    const HalfUnit half_unit = HalfUnit::of<kLanes>(largest);
    out = make_uint4(half_unit.quotients(v.x), half_unit.quotients(v.y), half_unit.quotients(v.z),
                     half_unit.quotients(v.w));
    if (there && chunk % kLanes == 0) *unit = half_unit.value();
  }
  if (there) *to = out;
}

// Where StagedX lies in `memory`.
template <typename W>
__device__ __forceinline__ StagedX staged_in(std::byte* memory, int n_rows, int n_steps) {
  const int n_blocks = staged_blocks(n_steps);
  return {memory, StagedRows<W>::units(memory, n_rows, n_blocks), n_rows, n_blocks};
}
// Stages rows of activations, by all multiplying warps; what they have staged is there for all
// after consumers_barrier(). A thread takes kAtOnce chunks of 8 columns at a time: load() and
// store() in turn until done().
template <typename W, int kAtOnce>
class Stager {
 public:
  __device__ Stager(const StagedX& to, const std::byte* x, int64_t x_stride_bytes, int n_steps)
      : to_(to),
        x_(x),
        x_stride_bytes_(x_stride_bytes),
        row_chunks_(n_steps * (W::kStepColumns / 8)),
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
    constexpr auto kPitch = StagedRows<W>::pitch;
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const int i = at_ + k * kConsumers, block = i / kLanes, row = row_of(block);
      if (i >= n_) break;  // all lanes of a warp
      auto* const out = reinterpret_cast<uint4*>(to_.rows + row * kPitch(to_.n_blocks));
      stage_chunk<W>(v_[k], row < to_.n_rows, i, &out[i - row * to_.n_blocks * kLanes],
                     &to_.units[block]);
    }
    at_ += kAtOnce * kConsumers;
  }

 private:
  static constexpr int kLanes = StagedRows<W>::kChunks;

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
template <typename W, int kAtOnce>
__device__ __forceinline__ void stage_x_by(Stager<W, kAtOnce> stager) {
  while (!stager.done()) {
    stager.load();
    stager.store();
  }
}
// As many chunks under way as a thread has: a second turn costs another way to the L2.
__device__ __forceinline__ void stage_x(const StagedX& to, const std::byte* x,
                                        int64_t x_stride_bytes, int n_steps) {
  using W = Fp8Weight;
  if (to.n_rows * to.n_blocks * StagedRows<W>::kChunks <= 2 * kConsumers)
    stage_x_by(Stager<W, 2>(to, x, x_stride_bytes, n_steps));
  else
    stage_x_by(Stager<W, 8>(to, x, x_stride_bytes, n_steps));
}

// Where a lane finds its operands of a tile of 8 staged rows.
template <typename W>
struct StagedTile {
  const uint4* x;
  const float* units[2];  // of tokens 2 t and 2 t + 1

  // row(i): which staged row the tile's i-th token has.
  template <typename Row>
  __device__ __forceinline__ static StagedTile of(std::byte* rows, int n_rows, int n_blocks,
                                                  const Row& row) {
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    constexpr int kLaneBytes = W::kXChunks * 16;
    StagedTile out;
    out.x = reinterpret_cast<const uint4*>(rows + row(g) * StagedRows<W>::pitch(n_blocks) +
                                           t * kLaneBytes);
    if constexpr (W::kScaled) {
      float* units = StagedRows<W>::units(rows, n_rows, n_blocks);
      out.units[0] = units + row(2 * t) * n_blocks;
      out.units[1] = units + row(2 * t + 1) * n_blocks;
    }
    return out;
  }
  __device__ __forceinline__ void take(int block, int, BlockX<W>& out) const {
    const uint4* from = x + block * StagedRows<W>::kChunks;
#pragma unroll
    for (int c = 0; c < W::kXChunks; ++c) {
      out.x[0][c] = from[c];
      out.x[1][c] = from[StagedRows<W>::kChunks / 2 + c];
    }
    if constexpr (W::kScaled) {
      out.units[0] = units[0][block];
      out.units[1] = units[1][block];
    }
  }
};
// For jobs whose units have rows of the same activations.
struct SharedStagedX {
  StagedX staged;
  template <typename Job>
  __device__ __forceinline__ StagedTile<Fp8Weight> at(const Job& job,
                                                      const typename Job::Unit& unit, int) const {
    const int last = job.n_tokens(unit) - 1;
    return StagedTile<Fp8Weight>::of(staged.rows, staged.n_rows, staged.n_blocks,
                                     [&](int i) { return job.row(unit, min(i, last)); });
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
