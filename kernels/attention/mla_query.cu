// mla_query and mla_query_and_write on CUDA. Definitions and shapes: ops/mla.h.
//
// Mapping   a block per head, 128 columns of the latent and 64 tokens. A warp multiplies 32 of the
//           columns by every second 8 of the tokens, with mma.sync: columns are its rows, tokens
//           its columns. A thread loads four columns of 32 rows of W_UK[h] and makes the first
//           operand of them in registers; that, and the angles, before the kernel before has ended.
//           q_pe is rotated by the same blocks. Where rows are written too, further blocks do that
//           (mla_write_row.cuh).
// Order     two chains of four products of 16 rows each, then their sum: the same for any number of
//           tokens. Scales of blocks multiply the sum.
// Needs     128 rows a head and columns in 128s, bf16 or e4m3 with one scale for those rows. For
//           the rest there is a plain kernel: eight warps share out the rows.
// Traffic   W_UK twice per 64 tokens; H * (nope + kv_lora_rank + 2 rope) * 2 bytes per token.
#include <algorithm>

#include "attention/mla_write_row.cuh"
#include "gemm/plain_weight.cuh"
#include "gemm/weight_units.cuh"

namespace dsr::cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * 32;
static_assert(kThreads == kMlaWriteThreads, "a block writes rows, or multiplies");

struct QueryParams {
  PlainSegment w;  // [H * (nope + v), C]
  PlainLayout layout;
  const bf16* q;
  bf16* out;
  int64_t q_stride, q_head_stride, out_stride, out_head_stride;
  const float* cos;
  const float* sin;
  int64_t cos_stride, sin_stride;
  const int* positions;
  int T, H, nope, rope, head_rows;
};

// q_pe of one head and n tokens, rotated; every product and sum rounded, as the definition has it.
// The blocks of a head share them out.
class Rotation {
 public:
  // The angles that this thread starts with, before the kernel before has ended.
  __device__ Rotation(const QueryParams& p, int first_token, int n)
      : p_(p),
        first_token_(first_token),
        n_(n * (p.rope / 2)),
        // From the middle, where threads have the fewest products.
        i0_(static_cast<int>(blockIdx.x * kThreads + (threadIdx.x + kThreads / 2) % kThreads)) {
    if (i0_ < n_) first_ = angle(i0_);
  }
  __device__ __forceinline__ void run(int64_t head) const {
    const int pairs = p_.rope / 2;
    for (int i = i0_; i < n_; i += static_cast<int>(gridDim.x) * kThreads) {
      const int64_t t = first_token_ + i / pairs, pair = i % pairs;
      const bf16* from = p_.q + t * p_.q_stride + head * p_.q_head_stride + p_.nope + 2 * pair;
      bf16* to = p_.out + t * p_.out_stride + head * p_.out_head_stride + p_.layout.K + 2 * pair;
      const float even = to_float(from[0]), odd = to_float(from[1]);
      const auto [c, s] = i == i0_ ? first_ : angle(i);
      to[0] = from_float<bf16>(__fsub_rn(__fmul_rn(even, c), __fmul_rn(odd, s)));
      to[1] = from_float<bf16>(__fadd_rn(__fmul_rn(odd, c), __fmul_rn(even, s)));
    }
  }

 private:
  __device__ __forceinline__ float2 angle(int i) const {
    const int pairs = p_.rope / 2, position = p_.positions[first_token_ + i / pairs];
    return make_float2(p_.cos[position * p_.cos_stride + i % pairs],
                       p_.sin[position * p_.sin_stride + i % pairs]);
  }

  const QueryParams& p_;
  const int first_token_, n_, i0_;
  float2 first_ = {};
};

// The rows of n tokens, where this block is one of those behind the heads'. All its threads.
__device__ __forceinline__ bool writes_rows(const QueryParams& p, const MlaWriteParams& write,
                                            int first_token, int n, float* shared) {
  const int y = static_cast<int>(blockIdx.y) - p.H;
  if (y < 0) return false;
  const auto width = static_cast<int>(gridDim.x);
  for (int j = y * width + static_cast<int>(blockIdx.x); j < n;
       j += (static_cast<int>(gridDim.y) - p.H) * width) {
    if (write.by_warp) {
      if (threadIdx.x < 32) write_released_row(write, first_token + j);
      continue;
    }
    write_mla_row(write, first_token + j, shared);
    __syncthreads();  // the row has been read
  }
  return true;
}

// --- by mma.sync --------------------------------------------------------------------------------

constexpr int kNope = 128, kSteps = kNope / 32;  // a thread has 8 rows of each 32
constexpr int kBlockColumns = 128, kWarpColumns = 32, kBlockTokens = 64;
constexpr int kColumnWarps = kBlockColumns / kWarpColumns, kTokenWarps = kWarps / kColumnWarps;

// Thread (g, t) of a warp, g = lane / 4, has columns 4 g .. 4 g + 3 of rows 32 s + 8 t .. + 7. Of
// m16n8k16 number j in step s, its rows 4 j .. 4 j + 3 are the K, columns 4 g + 2 i and the next
// one rows g and g + 8 of operand i.
struct Fp8Columns {
  using Raw = uint32_t;
  static constexpr int kBytes = 1;
  static constexpr bool kScaled = true;
  // Column c of two rows, as bf16.
  template <int c>
  __device__ static uint32_t pair(Raw first, Raw second) {
    return bf16_from_shifted(__byte_perm(first, second, (4 + c) << 12 | c << 4));
  }
};
struct Bf16Columns {
  using Raw = uint2;
  static constexpr int kBytes = 2;
  static constexpr bool kScaled = false;
  template <int c>
  __device__ static uint32_t pair(const Raw& first, const Raw& second) {
    return __byte_perm(c < 2 ? first.x : first.y, c < 2 ? second.x : second.y,
                       c % 2 == 0 ? 0x5410 : 0x7632);
  }
};

template <typename W>
struct QueryWeights {
  uint32_t a[kSteps][2][2][4];  // [step][product][operand]
  float scale = 1;

  __device__ __forceinline__ QueryWeights(const QueryParams& p, int head, int column, int lane) {
    const int64_t row = int64_t{head} * p.head_rows + lane % 4 * 8;
    const std::byte* from = p.w.data + (row * p.layout.K + column) * W::kBytes;
    typename W::Raw raw[kSteps][8];
#pragma unroll
    for (int s = 0; s < kSteps; ++s)
#pragma unroll
      for (int i = 0; i < 8; ++i)
        raw[s][i] = *reinterpret_cast<const typename W::Raw*>(from + (s * 32 + i) *
                                                                         (p.layout.K * W::kBytes));
    start_next_kernel();
    if constexpr (W::kScaled) {
      const int64_t at =
          int64_t{head} * p.head_rows / p.layout.block_rows * p.layout.scale_columns +
          column / p.layout.block_columns;
      scale = p.w.scale_dtype == DType::kF32
                  ? reinterpret_cast<const float*>(p.w.scales)[at]
                  : to_float(reinterpret_cast<const e8m0*>(p.w.scales)[at]);
    }
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const auto* r = raw[s] + 4 * j;
        a[s][j][0][0] = W::template pair<0>(r[0], r[1]);
        a[s][j][0][1] = W::template pair<1>(r[0], r[1]);
        a[s][j][0][2] = W::template pair<0>(r[2], r[3]);
        a[s][j][0][3] = W::template pair<1>(r[2], r[3]);
        a[s][j][1][0] = W::template pair<2>(r[0], r[1]);
        a[s][j][1][1] = W::template pair<3>(r[0], r[1]);
        a[s][j][1][2] = W::template pair<2>(r[2], r[3]);
        a[s][j][1][3] = W::template pair<3>(r[2], r[3]);
      }
    }
    finish();
  }

 private:
  // Here, where nothing waits for it: the compiler would have the operands made behind the
  // dependency wait, which these bits could keep from happening, for all that it knows.
  __device__ __forceinline__ void finish() const {
    uint32_t all = 0;
#pragma unroll
    for (int i = 0; i < kSteps * 16; ++i) all ^= a[i / 16][i / 8 % 2][i / 4 % 2][i % 4];
    if (all == 1) start_next_kernel();
  }
};

// Grid: blocks of 128 columns, heads and then blocks that write, 64s of tokens.
template <typename W>
__global__ __launch_bounds__(kThreads) void query_kernel(
    const __grid_constant__ QueryParams p, const __grid_constant__ MlaWriteParams write) {
  extern __shared__ float shared[];
  const int t0 = static_cast<int>(blockIdx.z) * kBlockTokens, n = min(kBlockTokens, p.T - t0);
  if (writes_rows(p, write, t0, n, shared)) return;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int g = lane / 4, t = lane % 4, head = static_cast<int>(blockIdx.y);
  const int column =
      static_cast<int>(blockIdx.x) * kBlockColumns + warp % kColumnWarps * kWarpColumns + 4 * g;
  int tile = warp / kColumnWarps;
  const Rotation rotation(p, t0, n);
  if (tile * 8 >= n) {  // no products
    wait_for_previous_kernel();
    return rotation.run(head);
  }
  const QueryWeights<W> w(p, head, column, lane);
  wait_for_previous_kernel();

  const auto load = [&](int i, uint4(&x)[kSteps]) {  // rows that there are not: the last one
    const bf16* from =
        p.q + min(t0 + i * 8 + g, p.T - 1) * p.q_stride + head * p.q_head_stride + 8 * t;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) x[s] = *reinterpret_cast<const uint4*>(from + 32 * s);
  };
  uint4 x[kSteps];
  load(tile, x);
  rotation.run(head);
  for (; tile * 8 < n; tile += kTokenWarps) {
    uint4 next[kSteps];
    const bool more = (tile + kTokenWarps) * 8 < n;
    if (more) load(tile + kTokenWarps, next);
    float acc[2][2][4] = {};  // [chain][operand]
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        mma_bf16(acc[s % 2][i], w.a[s][0][i], x[s].x, x[s].y);
        mma_bf16(acc[s % 2][i], w.a[s][1][i], x[s].z, x[s].w);
      }
    }
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int j = tile * 8 + 2 * t + k;
      if (j >= n) continue;
      const auto sum = [&](int i, int of) {
        return (acc[0][i][of + k] + acc[1][i][of + k]) * w.scale;
      };
      *reinterpret_cast<uint2*>(p.out + (t0 + j) * p.out_stride + head * p.out_head_stride +
                                column) =
          make_uint2(pack_bf16(sum(0, 0), sum(0, 2)), pack_bf16(sum(1, 0), sum(1, 2)));
    }
#pragma unroll
    for (int s = 0; s < kSteps; ++s)
      if (more) x[s] = next[s];
  }
}

// --- plain --------------------------------------------------------------------------------------

constexpr int kPlainTokens = 8, kMaxNope = 512;

// Grid as above, 8s of tokens. A lane has four neighbouring columns.
__global__ __launch_bounds__(kThreads) void plain_query_kernel(
    const __grid_constant__ QueryParams p, const __grid_constant__ MlaWriteParams write) {
  extern __shared__ float shared[];
  const int t0 = static_cast<int>(blockIdx.z) * kPlainTokens, n = min(kPlainTokens, p.T - t0);
  if (writes_rows(p, write, t0, n, shared)) return;
  float* sums = shared;  // [kWarps][kPlainTokens][kBlockColumns]
  float* q = shared + kWarps * kPlainTokens * kBlockColumns;  // [kPlainTokens][nope]
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t head = blockIdx.y, C = p.layout.K;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kBlockColumns + lane * 4;
  const Rotation rotation(p, t0, n);
  wait_for_previous_kernel();

  for (int k = static_cast<int>(threadIdx.x); k < p.nope; k += kThreads)
    for (int j = 0; j < kPlainTokens; ++j)
      q[j * p.nope + k] =
          j < n ? to_float(p.q[(t0 + j) * p.q_stride + head * p.q_head_stride + k]) : 0.0f;
  rotation.run(head);
  __syncthreads();

  float acc[kPlainTokens][4] = {};
  for (int row = warp * p.nope / kWarps; row < (warp + 1) * p.nope / kWarps; ++row) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      if (column + c >= C) break;
      const float w = plain_value(p.w, p.layout, head * p.head_rows + row, column + c);
#pragma unroll
      for (int j = 0; j < kPlainTokens; ++j) acc[j][c] = fmaf(q[j * p.nope + row], w, acc[j][c]);
    }
  }
#pragma unroll
  for (int j = 0; j < kPlainTokens; ++j)
    *reinterpret_cast<float4*>(sums + (warp * kPlainTokens + j) * kBlockColumns + lane * 4) =
        make_float4(acc[j][0], acc[j][1], acc[j][2], acc[j][3]);
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < n * kBlockColumns; i += kThreads) {
    const int j = i / kBlockColumns;
    const int64_t c = static_cast<int64_t>(blockIdx.x) * kBlockColumns + i % kBlockColumns;
    if (c >= C) continue;
    float sum = sums[i];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) sum += sums[w * kPlainTokens * kBlockColumns + i];
    p.out[(t0 + j) * p.out_stride + head * p.out_head_stride + c] = from_float<bf16>(sum);
  }
}

// --- launch -------------------------------------------------------------------------------------

using QueryKernel = void (*)(QueryParams, MlaWriteParams);
struct QueryVariant {
  QueryKernel kernel;
  int tokens;  // of a block
  int64_t shared_floats;
};

QueryVariant select_kernel(const MlaQueryArgs& a, const QueryParams& p) {
  const QuantScheme& quant = a.kv_b_proj.quant;
  if (p.nope == kNope && p.layout.K % kBlockColumns == 0 && rows_allow_16(a.q) &&
      rows_allow_16(a.out) && reinterpret_cast<uintptr_t>(p.w.data) % 16 == 0) {
    if (p.w.dtype == DType::kBF16) return {query_kernel<Bf16Columns>, kBlockTokens, 0};
    if (p.w.dtype == DType::kF8E4M3 && p.head_rows % kNope == 0 && quant.block_rows % kNope == 0 &&
        quant.block_columns % kWarpColumns == 0)
      return {query_kernel<Fp8Columns>, kBlockTokens, 0};
  }
  return {plain_query_kernel, kPlainTokens,
          int64_t{kPlainTokens} * p.nope + kWarps * kPlainTokens * kBlockColumns};
}

// With the rows of `write`, where there is one.
void run_query(Exec& exec, const char* op, const MlaQueryArgs& a, const MlaWriteParams* write) {
  const int64_t T = a.q.shape[0], H = a.q.shape[1], C = a.kv_b_proj.columns();
  const int64_t rope = a.out.shape[2] - C, nope = a.q.shape[2] - rope;
  if (a.kv_b_proj.segments.size() != 1 || nope > kMaxNope)
    fail(ErrorKind::kDevice, "mla_query: kv_b_proj ", a.kv_b_proj.text(), " with ", nope,
         " rows of keys per head; CUDA takes one segment and at most ", kMaxNope, " rows");
  const QueryParams p = {.w = plain_segment(a.kv_b_proj.segments.front()),
                         .layout = plain_layout(a.kv_b_proj.quant, C),
                         .q = a.q.ptr<bf16>(),
                         .out = a.out.ptr<bf16>(),
                         .q_stride = a.q.strides[0],
                         .q_head_stride = a.q.strides[1],
                         .out_stride = a.out.strides[0],
                         .out_head_stride = a.out.strides[1],
                         .cos = a.rope.cos.ptr<float>(),
                         .sin = a.rope.sin.ptr<float>(),
                         .cos_stride = a.rope.cos.strides[0],
                         .sin_stride = a.rope.sin.strides[0],
                         .positions = a.positions.ptr<int>(),
                         .T = narrow(T),
                         .H = narrow(H),
                         .nope = narrow(nope),
                         .rope = narrow(rope),
                         .head_rows = narrow(nope + a.v_head_dim)};
  const QueryVariant variant = select_kernel(a, p);
  const int64_t columns = ceil_div(C, kBlockColumns), n_tiles = ceil_div(T, variant.tokens);
  constexpr int64_t kMaxGridZ = 65535;
  DSR_CHECK(n_tiles <= kMaxGridZ, T);
  // A block per row.
  const int64_t writing =
      write != nullptr ? ceil_div(std::min<int64_t>(T, variant.tokens), columns) : 0;
  const int64_t row_floats = write != nullptr ? write->C + 2 * write->rope.half : 0;
  launch(exec, op,
         {.grid = dim3(static_cast<unsigned>(columns), static_cast<unsigned>(H + writing),
                       static_cast<unsigned>(n_tiles)),
          .threads = kThreads,
          .shared_bytes = std::max(variant.shared_floats, row_floats) * 4},
         variant.kernel, p, write != nullptr ? *write : MlaWriteParams{});
}

}  // namespace

void mla_query(Exec& exec, const MlaQueryArgs& a) { run_query(exec, "mla_query", a, nullptr); }

void mla_query_and_write(Exec& exec, const MlaQueryAndWriteArgs& a) {
  const MlaWriteParams write = mla_write_params(a.write);
  run_query(exec, "mla_query_and_write", a.query, &write);
}

}  // namespace dsr::cuda
