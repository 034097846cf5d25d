// held_linear_sm90.cu for one token and FP8: a decode step of one sequence.
//
// Mapping   as there, but codes become operands behind the dependency wait, so that a thread needs
//           half of the registers. What they are worth: a block starts where the SM has room for it
//           beside blocks of the kernels before, and its weights come while those still run.
// Operands  those of one_row.cuh: a chunk of 8 values of the token's row in every lane.
// Order     that of stream.cuh, bit for bit.
#include <algorithm>

#include "gemm/linear_kernels.h"
#include "gemm/one_row.cuh"
#include "gemm/stream.cuh"

namespace dsr::cuda {
namespace {

#if __CUDA_ARCH__ >= 900
__device__ __forceinline__ int lane_id() { return static_cast<int>(threadIdx.x % 32); }
__device__ __forceinline__ int warp_id() { return static_cast<int>(threadIdx.x / 32); }
__device__ __forceinline__ float from_lane(float v, int lane) {
  return __shfl_sync(0xffffffffu, v, lane);
}
__device__ __forceinline__ float from_lane_xor(float v, int bits) {
  return __shfl_xor_sync(0xffffffffu, v, bits);
}

// 16 bytes of weights, or zeros where they are not there.
__device__ __forceinline__ uint4 load_if(bool there, const void* p) {
  uint4 v = make_uint4(0, 0, 0, 0);
  asm volatile(
      "{\n"
      ".reg .pred there;\n"
      "setp.ne.b32 there, %6, 0;\n"
      "@there ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %5;\n"
      "}\n"
      : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
      : "l"(p), "l"(evict_first()), "r"(static_cast<int>(there)));
  return v;
}

// Two blocks of K of a warp: first and first + 8.

// This lane's chunk of a row as operands.
struct RowPairX {
  uint4 x;
  float unit;  // of block t / 2

  __device__ __forceinline__ void load(const std::byte* row, int first, int n_steps) {
    const int g = lane_id() / 4, t = lane_id() % 4;
    const int step = 2 * first + g / 4 * 2 * kStreamWarps + g / 2 % 2;
    x = make_uint4(0, 0, 0, 0);
    if (step < n_steps) x = *reinterpret_cast<const uint4*>(row + step * 128 + t * 32 + g % 2 * 16);
  }
  __device__ __forceinline__ void make_operands() {
    uint32_t largest = HalfUnit::larger(0, x.x);
    largest = HalfUnit::larger(largest, x.y);
    largest = HalfUnit::larger(largest, x.z);
    largest = HalfUnit::larger(largest, x.w);
    const HalfUnit half_unit = HalfUnit::of<16>(largest);
    x = make_uint4(half_unit.quotients(x.x), half_unit.quotients(x.y), half_unit.quotients(x.z),
                   half_unit.quotients(x.w));
    unit = from_lane(half_unit.value(), lane_id() % 4 / 2 * 16);
  }
};

// The weights of a unit in two blocks of K.
struct UnitPair {
  uint4 low[4], high[4];            // of row g and g + 8, in every step
  ScaleWord scale_low, scale_high;  // of block t / 2

  __device__ __forceinline__ void load(const DenseLayout& l, const RowPair& rows, int first) {
    const std::byte *const at_low = rows.low + first * 128, *const at_high =
                                                                rows.high + first * 128;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int offset = i / 2 * 2 * kStreamWarps + i % 2;  // steps from the first
      low[i] = load_if(2 * first + offset < l.n_steps, at_low + offset * 64);
      high[i] = load_if(2 * first + offset < l.n_steps, at_high + offset * 64);
    }
    const int step = 2 * (first + lane_id() % 4 / 2 * kStreamWarps);
    if (step >= l.n_steps) return;
    scale_low = load_scale(l, rows.scale_low, step);
    scale_high = load_scale(l, rows.scale_high, step);
  }
  // acc = the sums of the two blocks added to `acc`, of row g and g + 8: in lanes 2 and 3 of a
  // quad; there it is expected in lanes 0 and 1.
  __device__ __forceinline__ void add(const DenseLayout& l, const RowPairX& x,
                                      float (&acc)[2]) const {
    float steps[2];
    multiply_steps<Fp8Weight>(low, high, x.x, lane_id(), steps);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float block = block_of_steps(steps[h]) * x.unit;
      const float scale = scale_value(l, h == 0 ? scale_low : scale_high);
      const float first = fmaf(block, scale, acc[h]);
      acc[h] = fmaf(block, scale, from_lane_xor(first, 2));
    }
  }
};
#endif

// CMakeLists.txt bounds the registers of a thread, at 112.
template <int kUnits, int kPairs>
__global__ void one_row_kernel(const __grid_constant__ DenseProduct p) {
#if __CUDA_ARCH__ >= 900
  start_next_kernel();
  __shared__ float sums[kUnits][kStreamWarps][kStreamSumStride];
  const DenseLayout& l = p.w.layout;
  // The first blocks have a unit more.
  const auto b = static_cast<int>(blockIdx.x), n_blocks = static_cast<int>(gridDim.x);
  const int more = p.w.n_units - n_blocks;
  const int first = kUnits == 1 ? b : b + min(b, more);
  const int n_units = kUnits == 1 || b >= more ? 1 : 2;
  UnitPair held[kUnits][kPairs] = {};
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
    if (u >= n_units) break;
    if (kUnits > 1) __builtin_assume(first + u < p.w.units_per_group);  // there is one group
    const RowPair rows = rows_of<false>(p.w, first + u, lane_id());
#pragma unroll
    for (int q = 0; q < kPairs; ++q) held[u][q].load(l, rows, warp_id() + q * 2 * kStreamWarps);
  }
  const int group = kUnits > 1 || first < p.w.units_per_group ? 0 : first / p.w.units_per_group;
  const std::byte* const x = p.x + group * p.x_group_bytes;
  // This thread's value of the result.
  const auto row = static_cast<int>(threadIdx.x % 16), unit = static_cast<int>(threadIdx.x / 16);
  bool has_value = unit < n_units;
  int column = 0;
  if (has_value) {
    if (kUnits > 1) __builtin_assume(first + unit < p.w.units_per_group);
    const UnitColumns columns = columns_of<false>(p.w, first + unit);
    has_value = row < columns.n;
    column = columns.first + row;
  }
  const float bias = has_value && p.bias != nullptr ? p.bias[column] : 0;
  wait_for_previous_kernel();

  RowPairX part[kPairs];
#pragma unroll
  for (int q = 0; q < kPairs; ++q) part[q].load(x, warp_id() + q * 2 * kStreamWarps, l.n_steps);
  float acc[kUnits][2] = {};
#pragma unroll
  for (int q = 0; q < kPairs; ++q) {
    part[q].make_operands();
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      if (q > 0)
#pragma unroll
        for (int h = 0; h < 2; ++h) acc[u][h] = from_lane_xor(acc[u][h], 2);
      held[u][q].add(l, part[q], acc[u]);
    }
  }
  const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
  for (int u = 0; u < kUnits; ++u)
    if (t >= 2) sums[u][warp_id()][g + (t - 2) * 8] = t == 2 ? acc[u][0] : acc[u][1];
  __syncthreads();
  if (!has_value) return;
  float value = total(&sums[unit][0][0], /*n=*/1, /*token=*/0, row);
  if (p.bias != nullptr) value += bias;
  store_as(p.out, p.out_f32, column, value);
#endif
}

template <int kUnits, int kPairs>
void run(Exec& exec, const char* op, const DenseProduct& p) {
  launch(exec, op,
         {.grid = dim3(static_cast<unsigned>(std::min(p.w.n_units, exec.cuda().n_sms()))),
          .threads = kConsumers},
         one_row_kernel<kUnits, kPairs>, p);
}

}  // namespace

void held_one_row(Exec& exec, const char* op, const DenseProduct& p, int units, int per_unit) {
  if (units == 2) return run<2, 1>(exec, op, p);
  if (per_unit <= 2) return run<1, 1>(exec, op, p);
  run<1, 2>(exec, op, p);
}

}  // namespace dsr::cuda
