// linear and mla_value for up to 8 tokens on sm_90 where the weights of a block fit in its
// registers: the short layers of a decode step, whose time is the way from the end of the kernel
// before to the first result.
//
// Mapping   a block per SM, one or two units each (weight_units.cuh). A thread loads what it
//           multiplies of them and makes operands of it before the dependency wait; behind it are
//           only the activations, products that do not wait for each other, and the sum, one value
//           a thread. One row and FP8: held_one_sm90.cu.
// Order     that of stream.cuh, bit for bit: warp w has the blocks w, w + 8, ... of 128 bytes of K.
// Operands  as in stream.cuh. A warp needs the activations of its own blocks alone, so these do not
//           go through shared memory.
// Traffic   the weights once, the activations once per block.
#include <algorithm>

#include "gemm/linear_kernels.h"
#include "gemm/stream.cuh"

namespace dsr::cuda {
namespace {

constexpr int kMostUnits = 2;  // of a block
constexpr int kMostTokens = 8;
static_assert(kMostUnits * kMostTokens * 16 <= kConsumers, "a thread has one value of the result");

struct HeldShape {
  int units;     // of a block
  int per_unit;  // blocks of K of one of them that a warp has
};
HeldShape held_shape(Exec& exec, const DenseProduct& p) {
  const int n_sms = exec.cuda().n_sms();
  return {(p.w.n_units + n_sms - 1) / n_sms,
          (staged_blocks(p.w.layout.n_steps) + kStreamWarps - 1) / kStreamWarps};
}
// Blocks of weights in the registers of a thread: 32 each as f16 of codes, 16 as bf16.
int most_held(const DenseProduct& p) { return p.w.layout.fp8 ? 4 : 8; }

#if __CUDA_ARCH__ >= 900
// A block of weights and its scales, as its thread multiplies them.
template <typename W>
struct HeldBlock {
  BlockWeights<W> weights;
  float scale_low = 1, scale_high = 1;
};
template <typename W>
struct RawBlock {
  uint4 low[2], high[2];  // of row g and g + 8, in both steps
  ScaleWord scale_low, scale_high;
};

template <typename W>
__device__ __forceinline__ void load_raw(const DenseLayout& l, const RowPair& rows, int step,
                                         RawBlock<W>& out) {
  const bool whole = step + 1 < l.n_steps;
  const uint4 zero = make_uint4(0, 0, 0, 0);
  out.low[0] = load_evict_first(rows.low + step * 64);
  out.high[0] = load_evict_first(rows.high + step * 64);
  out.low[1] = whole ? load_evict_first(rows.low + step * 64 + 64) : zero;
  out.high[1] = whole ? load_evict_first(rows.high + step * 64 + 64) : zero;
  if constexpr (W::kScaled) {
    out.scale_low = load_scale(l, rows.scale_low, step);
    out.scale_high = load_scale(l, rows.scale_high, step);
  }
}
#endif

template <typename W, int kUnits, int kPerUnit>
__global__ __launch_bounds__(kConsumers,
                             1) void held_kernel(const __grid_constant__ DenseProduct p) {
#if __CUDA_ARCH__ >= 900
  start_next_kernel();
  extern __shared__ float sums[];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t n = p.w.n_units, b = blockIdx.x;
  const auto first = static_cast<int>(b * n / gridDim.x);
  const auto n_units = static_cast<int>((b + 1) * n / gridDim.x) - first;
  const DenseLayout& l = p.w.layout;

  HeldBlock<W> held[kUnits][kPerUnit];
  {
    RawBlock<W> raw[kUnits][kPerUnit] = {};
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      if (u >= n_units) break;
      const RowPair rows = rows_of<false>(p.w, first + u, lane);
#pragma unroll
      for (int i = 0; i < kPerUnit; ++i) {
        const int step = 2 * (warp + i * kStreamWarps);
        if (step < l.n_steps) load_raw<W>(l, rows, step, raw[u][i]);
      }
    }
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
#pragma unroll
      for (int i = 0; i < kPerUnit; ++i) {
        HeldBlock<W>& to = held[u][i];
        expand_block<W>(raw[u][i].low, raw[u][i].high, to.weights);
        if constexpr (W::kScaled) {
          to.scale_low = scale_value(l, raw[u][i].scale_low);
          to.scale_high = scale_value(l, raw[u][i].scale_high);
        }
      }
    }
  }
  const int group = first < p.w.units_per_group ? 0 : first / p.w.units_per_group;
  const std::byte* const x =
      p.x + group * p.x_group_bytes + min(lane / 4, p.n_tokens - 1) * p.x_stride_bytes;

  // This thread's value of the result.
  const int row = static_cast<int>(threadIdx.x) % 16, i_token = static_cast<int>(threadIdx.x) / 16;
  const int token = i_token % p.n_tokens, unit = i_token / p.n_tokens;
  bool has_value = unit < n_units;
  int column = 0;
  if (has_value) {
    const UnitColumns columns = columns_of<false>(p.w, first + unit);
    has_value = row < columns.n;
    column = columns.first + row;
  }
  const float bias = has_value && p.bias != nullptr ? p.bias[column] : 0;
  const int64_t out_at = token * p.out_stride + column;

  wait_for_previous_kernel();

  BlockX<W> tile[kPerUnit] = {};
#pragma unroll
  for (int i = 0; i < kPerUnit; ++i) {
    const int step = 2 * (warp + i * kStreamWarps);
    if (step < l.n_steps) load_x<W>(x, step, step + 1 < l.n_steps, lane, tile[i]);
  }
  // What there is not, past the end of K, is zeros; sums of a unit that there is not are not
  // stored.
  float acc[kUnits][1][4] = {};
#pragma unroll
  for (int i = 0; i < kPerUnit; ++i) {
    if (!W::kScaled && 2 * (warp + i * kStreamWarps) >= l.n_steps) break;  // spares registers
    make_operands(tile[i], lane);
#pragma unroll
    for (int u = 0; u < kUnits; ++u)
      add_block(held[u][i].weights, tile[i], held[u][i].scale_low, held[u][i].scale_high,
                acc[u][0]);
  }
#pragma unroll
  for (int u = 0; u < kUnits; ++u)
    keep_sums<1>(sums + u * sums_floats(p.n_tokens), acc[u], p.n_tokens);
  __syncthreads();
  if (!has_value) return;
  float value = total(sums + unit * sums_floats(p.n_tokens), p.n_tokens, token, row);
  if (p.bias != nullptr) value += bias;
  store_as(p.out, p.out_f32, out_at, value);
#endif
}

template <typename W, int kUnits, int kPerUnit>
void run(Exec& exec, const char* op, const DenseProduct& p) {
  launch(exec, op,
         {.grid = dim3(static_cast<unsigned>(std::min(p.w.n_units, exec.cuda().n_sms()))),
          .threads = kConsumers,
          .shared_bytes = int64_t{kUnits} * kStreamWarps * p.n_tokens * kStreamSumStride * 4},
         held_kernel<W, kUnits, kPerUnit>, p);
}

}  // namespace

bool held_fits(Exec& exec, const DenseProduct& p) {
  const HeldShape shape = held_shape(exec, p);
  return p.n_tokens <= kMostTokens && shape.units <= kMostUnits &&
         shape.units * shape.per_unit <= most_held(p) &&
         (shape.units == 1 || p.w.n_units == p.w.units_per_group);
}

void held_linear(Exec& exec, const char* op, const DenseProduct& p) {
  const auto [units, per_unit] = held_shape(exec, p);
  if (p.w.layout.fp8 && p.n_tokens == 1) return held_one_row(exec, op, p, units, per_unit);
  if (p.w.layout.fp8) {
    if (units == 2) return run<Fp8Weight, 2, 2>(exec, op, p);
    if (per_unit <= 2) return run<Fp8Weight, 1, 2>(exec, op, p);
    return run<Fp8Weight, 1, 4>(exec, op, p);
  }
  if (units == 2) return run<Bf16Weight, 2, 4>(exec, op, p);
  if (per_unit <= 4) return run<Bf16Weight, 1, 4>(exec, op, p);
  return run<Bf16Weight, 1, 8>(exec, op, p);
}

}  // namespace dsr::cuda
