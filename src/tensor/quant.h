// How weights and cached values are stored in fewer bits, and what they mean.
#pragma once

#include <atomic>
#include <vector>

#include "base/math.h"
#include "tensor/tensor.h"

namespace dsr {

// The block that shares one scale in an FP8 weight; {0, 0} where nothing is quantised. From
// `quantization_config.weight_block_size`.
struct QuantScheme {
  int64_t block_rows = 0;
  int64_t block_columns = 0;
  bool operator==(const QuantScheme&) const = default;
};

// Which rows of an f8_e4m3 tensor hold no NaN code, as far as it was looked: whoever reads rows for
// the first time looks, on any number of threads, so that a mapped file need not be read before.
// What is known of a loaded model grows while its values stay as they are. A file that somebody
// changes afterwards is not looked at again.
class NanFreeRows {
 public:
  static constexpr int64_t kUnit = 32;  // rows that are known together
  explicit NanFreeRows(int64_t rows)
      : rows_(rows), known_(static_cast<size_t>(ceil_div(rows, kUnit))) {}

  bool has(int64_t first, int64_t rows) const;
  // Rows [first, first + rows) hold none. Units that go beyond them are left out.
  void add(int64_t first, int64_t rows);

 private:
  int64_t rows_;
  std::vector<std::atomic<bool>> known_;
};

// One tensor of the checkpoint. f8_e4m3 data carries scales, other types none:
//   value[o][i] = e4m3(data[o][i]) * scales[o / block_rows][i / block_columns]
// (the checkpoint calls them weight_scale_inv; they are multiplied all the same). The last block of
// either dimension may be short. DeepSeek-V3 report, arXiv:2412.19437, section 3.3.
struct WeightSegment {
  Tensor data;    // [rows, K] bf16 | f16 | f32 | f8_e4m3
  Tensor scales;  // [ceil(rows / block_rows), ceil(K / block_columns)] f32 | f8_e8m0, or empty
  bool no_nan = false;  // f8_e4m3: every code was looked at, and none is NaN
  // Else, of the rows of `data`, kept by whoever owns that (LoadedWeights); nullptr: not
  // remembered.
  NanFreeRows* nan_free = nullptr;

  bool is_known_nan_free(int64_t first, int64_t rows) const {
    return no_nan || (nan_free != nullptr && nan_free->has(first, rows));
  }
};

// A linear layer's matrix [N, K] as row segments, one per tensor of the checkpoint: stacking
// tensors whose rows are not a multiple of the block would misalign their scales, so nothing is
// ever re-gridded. Scales are indexed within their segment.
struct Weight {
  std::vector<WeightSegment> segments;
  QuantScheme quant;

  int64_t rows() const;  // N
  int64_t columns() const {
    return segments.empty() ? 0 : segments.front().data.shape[1];  // K
  }
  int64_t size_bytes() const;  // data and scales
  std::string text() const;    // "[576, 7168] in 2 segments"
};

// Row `row` of one segment as float32, columns [first, first + count).
void dequantize_row(const WeightSegment& segment, const QuantScheme& quant, int64_t row,
                    int64_t first, int64_t count, float* out);

// --- values in the KV cache ---------------------------------------------------------------------

// One scale for a run of values: amax / 448, or 1 where all are zero. Not below 2^-120, so that
// x / scale stays finite.
float e4m3_scale(const float* x, int64_t n);
// out[i] = e4m3(x[i] / scale), nearest even, saturating.
void quantize_e4m3(const float* x, int64_t n, float scale, uint8_t* out);
void dequantize_e4m3(const uint8_t* x, int64_t n, float scale, float* out);

}  // namespace dsr
