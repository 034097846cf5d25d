#include "ops/cpu/add_rows.h"

#include <algorithm>

#include "base/math.h"
#include "ops/cpu/dots.h"

namespace dsr::cpu {
namespace {

// Up to this many tokens, weights are added as they are stored, decoded once for each token;
// above, they are turned into float32 once for all.
constexpr int64_t kInPlaceTokens = 2;
// Rows that are held as float32.
constexpr int64_t kRowsAtOnce = 16;
// How far ahead of a row's place bytes are asked for, into the first- and the second-level cache.
constexpr int64_t kNearBytes = 2048, kFarBytes = 16384;

// Columns that share their scale: all where there are none.
int64_t block_columns(const AddRows& a) {
  const int64_t K = a.segment.data.shape[1];
  return a.segment.data.dtype == DType::kF8E4M3 ? std::min(a.quant.block_columns, K) : K;
}

// x of rows [r, r + n) for each block of columns: [block][token][n], with the scale where there is
// one. The rows share their scales.
void scale_x(const InnerLoops& loops, const AddRows& a, int64_t r, int64_t n, float* out) {
  const int64_t blocks = ceil_div(a.segment.data.shape[1], block_columns(a));
  const RowScales scales(a.segment, a.quant, a.first_row + r);
  for (int64_t b = 0; b < blocks; ++b)
    for (int64_t t = 0; t < a.tokens; ++t, out += n) {
      const float* x = a.x + t * a.x_stride + r;
      if (a.segment.data.dtype == DType::kF8E4M3)
        loops.scale(x, scales.values() + b, n, 0, n, out);
      else
        std::copy_n(x, n, out);
    }
}

bool is_in_place(const InnerLoops& loops, const AddRows& a) {
  const Tensor& data = a.segment.data;
  const bool nan_free =
      data.dtype == DType::kF8E4M3 && is_nan_free(loops, a.segment, a.first_row, a.rows);
  const bool fits = a.tokens <= kInPlaceTokens && data.shape[1] % kAddColumns == 0 &&
                    block_columns(a) % kAddColumns == 0;
  return fits && (nan_free || data.dtype == DType::kBF16);
}

// From row `row` on to what is read `bytes` later: rows of `a`, or what comes next.
int64_t distance(const AddRows& a, int64_t row, int64_t bytes) {
  const int64_t row_bytes = a.segment.data.strides[0] * size_bytes(a.segment.data.dtype);
  const int64_t end = a.first_row + a.rows;
  return row * row_bytes + bytes < end * row_bytes ? bytes : bytes + (a.next_row - end) * row_bytes;
}

void add_in_place(const InnerLoops& loops, const AddRows& a, int64_t r, int64_t n, const float* x) {
  const Tensor& data = a.segment.data;
  const bool e4m3 = data.dtype == DType::kF8E4M3;
  (e4m3 ? loops.add_e4m3_rows
        : loops.add_bf16_rows)({.rows = data.at(a.first_row + r),
                                .row_bytes = data.strides[0] * size_bytes(data.dtype),
                                .n = n,
                                .columns = data.shape[1],
                                .block_columns = block_columns(a),
                                .x = x,
                                .tokens = a.tokens,
                                .sum = a.sum,
                                .sum_stride = a.sum_stride,
                                .near = distance(a, a.first_row + r, kNearBytes),
                                .far = distance(a, a.first_row + r, kFarBytes)});
}

// Rows [r, r + n) share their scales.
void add_part(const InnerLoops& loops, const AddRows& a, int64_t r, int64_t n, bool in_place,
              std::vector<float>& memory) {
  const int64_t K = a.segment.data.shape[1], width = block_columns(a);
  const int64_t n_x = ceil_div(K, width) * a.tokens * n;
  memory.resize(std::max(memory.size(), static_cast<size_t>(in_place ? n_x : n_x + n * K)));
  float* x = memory.data();
  float* decoded = x + n_x;
  scale_x(loops, a, r, n, x);
  if (in_place) return add_in_place(loops, a, r, n, x);
  for (int64_t i = 0; i < n; ++i)
    decode_unscaled(loops, a.segment, a.quant, a.first_row + r + i, 0, K, decoded + i * K);
  for (int64_t c = 0; c < K; c += width, x += a.tokens * n)
    loops.add_weighted_rows({.p = x,
                             .p_stride = n,
                             .queries = a.tokens,
                             .rows = decoded + c,
                             .row_stride = K,
                             .n = n,
                             .sum = a.sum + c,
                             .sum_stride = a.sum_stride,
                             .columns = std::min(width, K - c)});
}

}  // namespace

void add_rows(const InnerLoops& loops, const AddRows& a, std::vector<float>& memory) {
  const bool in_place = is_in_place(loops, a);
  for (int64_t r = 0; r < a.rows;) {
    const int64_t row = a.first_row + r;
    const int64_t block_end = a.segment.data.dtype == DType::kF8E4M3
                                  ? round_up(row + 1, a.quant.block_rows) - a.first_row
                                  : a.rows;
    const int64_t n = std::min({kRowsAtOnce, a.rows - r, block_end - r});
    add_part(loops, a, r, n, in_place, memory);
    r += n;
  }
}

}  // namespace dsr::cpu
