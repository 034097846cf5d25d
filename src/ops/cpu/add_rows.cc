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

bool is_in_place(const InnerLoops& loops, const AddRows& a, int64_t r, int64_t n) {
  const Tensor& data = a.segment.data;
  const bool fits = a.tokens <= kInPlaceTokens && data.shape[1] % kAddColumns == 0 &&
                    block_columns(a) % kAddColumns == 0;
  if (!fits || data.dtype == DType::kBF16) return fits;
  if (data.dtype != DType::kF8E4M3) return false;
  for (int64_t i = 0; !a.segment.no_nan && i < n; ++i)
    if (loops.has_e4m3_nan(data.ptr<uint8_t>(a.first_row + r + i), data.shape[1])) return false;
  return true;
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
                                .sum_stride = a.sum_stride});
}

// Rows [r, r + n) share their scales.
void add_part(const InnerLoops& loops, const AddRows& a, int64_t r, int64_t n, float* x,
              float* decoded) {
  scale_x(loops, a, r, n, x);
  if (is_in_place(loops, a, r, n)) return add_in_place(loops, a, r, n, x);
  const int64_t K = a.segment.data.shape[1], width = block_columns(a);
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
  const int64_t K = a.segment.data.shape[1], blocks = ceil_div(K, block_columns(a));
  memory.resize(static_cast<size_t>(kRowsAtOnce * (K + blocks * a.tokens)));
  for (int64_t r = 0; r < a.rows;) {
    const int64_t row = a.first_row + r;
    const int64_t block_end = a.segment.data.dtype == DType::kF8E4M3
                                  ? round_up(row + 1, a.quant.block_rows) - a.first_row
                                  : a.rows;
    const int64_t n = std::min({kRowsAtOnce, a.rows - r, block_end - r});
    add_part(loops, a, r, n, memory.data() + kRowsAtOnce * K, memory.data());
    r += n;
  }
}

}  // namespace dsr::cpu
