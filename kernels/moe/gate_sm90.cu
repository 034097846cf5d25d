// moe_gate for few tokens on sm_90: add_rms_norm, the router and moe_route in one kernel, with the
// bits of the three. Definition and shapes: ops/moe.h.
//
// Mapping   a cluster per token, a block for each 8 experts. Every block norms the row for itself,
//           as rms_norm.cu does, and multiplies it by its rows of the router: a warp has the same
//           columns of both (norm_row.cuh), so the row stays in registers, where it is the operand.
//           The warps' sums meet as in stream.cuh, the logits travel to block 0, where one warp
//           chooses the experts (route.cuh). The rows are stored when all logits are there: then
//           every block that has experts has read what they replace.
// Registers as few as let a block start beside those of the kernel before: the router comes then.
// Needs     D <= 2048, 2 to 4 units of router rows, E <= 64, rows in 16-byte chunks.
// Traffic   the router once per token, E * D * 2 bytes, into registers while the kernel before
//           runs, and 8 D bytes of rows. Latency only.
#include "moe/gate.h"

#include "gemm/stream.cuh"

namespace dsr::cuda {
namespace {

constexpr int kThreads = kNormThreads;
constexpr int kRows = 8;  // of the router in a block
static_assert(kMaxGateExperts <= kThreads, "a thread has an expert");
static_assert(kNormWarps == kStreamWarps, "K is shared out as stream.cuh does");
// Blocks of 128 bytes of its rows that a warp holds: the same columns as its lanes have of the
// normed row, a block in 8 lanes.
constexpr int kHeld = 4;
static_assert(kHeld * kStreamWarps * 64 == kMaxGateWidth && kHeld * 8 == 32,
              "a warp has its part of the row in a chunk of every lane");
constexpr int kExpertsPerLane = kMaxGateExperts / 32;
using Row = NormRow<8, 1, /*kEarlyWeights=*/true>;

struct GateShared {
  float4 sums[kStreamWarps][kRows];  // of a warp's blocks
  float logits[kMaxGateExperts];     // of block 0: from all blocks
  float bias[kMaxGateExperts];       // of block 0
  float route[kMaxGateExperts];      // of route_token
  float partial_squares[kNormWarps];
  uint64_t arrived;  // of block 0: all logits have
};

#if __CUDA_ARCH__ >= 900
// What this warp multiplies of its block's 8 rows of the router, half a unit.
class RouterRows {
 public:
  // Before the kernel before has ended.
  __device__ __forceinline__ RouterRows(const DenseWeight& w, int half_unit) {
    const RowPair rows = rows_of<false>(w, half_unit / 2, lane());
    const std::byte* const row = half_unit % 2 == 0 ? rows.low : rows.high;
#pragma unroll
    for (int h = 0; h < kHeld; ++h) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int step = 2 * (warp() + h * kStreamWarps) + i;
        held_[h][i] = make_uint4(0, 0, 0, 0);  // past the end of a row
        if (step < w.layout.n_steps) held_[h][i] = load_once(row + step * 64);
      }
    }
  }
  // The sums of add_block() of stream.cuh, of every block apart. A product has room for 16 rows:
  // the rows in step 0 of a block, and the same in step 1. It has 8 columns: of x the lanes 8 h ..
  // 8 h + 7 have block h, so column 2 h + i is step i of it. Of the product with block h the sums
  // with these two columns are kept, which lane h of a quad has.
  __device__ __forceinline__ void multiply(const Row::Chunk& x, float4 (&sums)[kRows]) const {
    float product[kHeld][4] = {};
#pragma unroll
    for (int p = 0; p < Bf16Weight::kProducts; ++p) {
#pragma unroll
      for (int h = 0; h < kHeld; ++h) {
        uint32_t a[4];
        product_weights(Bf16Weight{}, held_[h][0], held_[h][1], p, a);
        mma_bf16(product[h], a, x.pairs[2 * p], x.pairs[2 * p + 1]);
      }
    }
    const int t = lane() % 4;
    const auto sum = [&](int h) { return product[h][0] + product[h][3]; };
    const float even = t < 2 ? sum(0) : sum(2), odd = t < 2 ? sum(1) : sum(3);
    reinterpret_cast<float*>(&sums[lane() / 4])[t] = t % 2 == 0 ? even : odd;
  }

 private:
  __device__ static int lane() { return static_cast<int>(threadIdx.x % 32); }
  __device__ static int warp() { return static_cast<int>(threadIdx.x / 32); }

  uint4 held_[kHeld][2];  // of row g
};

// A row's logit: the sum over its warps, from left to right, of their blocks' sums.
__device__ __forceinline__ float logit(const float4 (&sums)[kStreamWarps][kRows], int row) {
  float out = 0;
#pragma unroll
  for (int w = 0; w < kStreamWarps; ++w) {
    const float4 v = sums[w][row];
    out += v.x + v.y + v.z + v.w;
  }
  return out;
}
#endif

__global__ __launch_bounds__(kThreads, 4) void gate_kernel(const __grid_constant__ GateCall c) {
#if __CUDA_ARCH__ >= 900
  __shared__ GateShared shared;
  const auto half_unit = static_cast<int>(rank_in_cluster());
  const int warp = static_cast<int>(threadIdx.x / 32), e = static_cast<int>(threadIdx.x);
  const bool first = half_unit == 0;
  const int64_t t = blockIdx.x / (2 * c.gate.n_units);
  if (e == 0) {
    init_barrier(&shared.arrived, 1);
    publish_barriers();
  }
  arrive_at_cluster();
  const RouterRows router(c.gate, half_unit);
  Row row;
  row.fetch_weights(c.norm);
  if (first && c.route.bias != nullptr && e < c.route.E) shared.bias[e] = c.route.bias[e];
  const UnitPlace place = place_of(c.gate, half_unit / 2);
  const int first_row = place.first_row + half_unit % 2 * kRows;
  const bool has_logit = e < min(kRows, place.segment.rows - first_row);
  float* const my_logit = &shared.logits[place.segment.column + first_row + e];
  wait_for_cluster();  // block 0 is there, and its barrier
  wait_for_previous_kernel();

  const float squares = sum_of_squares(row.load(c.norm, t), shared.partial_squares);
  if (e == 0) arrive_expecting(&shared.arrived, static_cast<uint32_t>(c.route.E) * 4);
  const Row::Chunk x = row.normed(c.norm, row.scale(c.norm, squares), 0);
  router.multiply(x, shared.sums[warp]);
  __syncthreads();
  if (has_logit) send(/*rank=*/0, my_logit, logit(shared.sums, e), &shared.arrived);
  if (!first) return;
  wait_barrier(&shared.arrived, 0);
  row.store(c.norm, row.sum(0), 0, c.norm.residual + t * c.norm.residual_stride);
  row.store(c.norm, x, 0, c.norm.out + t * c.norm.out_stride);
  if (warp == 0) route_token<kExpertsPerLane>(c.route, t, shared.logits, shared.bias, shared.route);
#endif
}

}  // namespace

void cluster_gate(Exec& exec, const GateCall& c) {
  const auto n_blocks = static_cast<unsigned>(2 * c.gate.n_units);
  launch(exec, "moe_gate",
         {.grid = dim3(static_cast<unsigned>(c.route.T) * n_blocks),
          .threads = kThreads,
          .cluster = n_blocks},
         gate_kernel, c);
}

}  // namespace dsr::cuda
