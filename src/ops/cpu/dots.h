// Dot products of weight rows with activations: what linear layers, experts and the absorbed
// projections of MLA are made of.
#pragma once

#include <vector>

#include "ops/cpu/inner_loops.h"
#include "tensor/quant.h"

namespace dsr::cpu {

// `rows` rows of a segment with `tokens` vectors.
struct Dots {
  const WeightSegment& segment;
  const QuantScheme& quant;
  int64_t first_row, rows;
  const float* const* x;  // [tokens], each [K]
  int64_t tokens;
  float* out;            // out[t * token_stride + r]
  int64_t token_stride;  // in floats
  bool gates = false;    // instead: out = silu(out) * the product
  // As many rows that will be wanted after these; nullptr: the following ones.
  const void* next = nullptr;
  bool is_nan_free = false;  // e4m3 codes; dots() looks
};

// Reads each weight once where there are few tokens, and decodes tiles of them once for all where
// there are many.
void dots(CpuContext& cpu, const Dots& d);

// Whether no code of e4m3 rows is NaN: looked at once where the segment remembers it.
bool is_nan_free(const InnerLoops& loops, const WeightSegment& segment, int64_t first_row,
                 int64_t rows);

// a . b by the definition of inner_loops.h.
float dot(const InnerLoops& loops, const float* a, const float* b, int64_t n);

// The scales of an e4m3 row's blocks as aligned float32; nothing for other rows.
class RowScales {
 public:
  RowScales(const WeightSegment& s, const QuantScheme& q, int64_t row) {
    if (s.data.dtype != DType::kF8E4M3) return;
    const int64_t n = s.scales.shape[1];
    float* to = here_;
    if (n > kHere) {
      more_.resize(static_cast<size_t>(n));
      to = more_.data();
    }
    to_f32(s.scales.dtype, s.scales.at(row / q.block_rows), to, n);
    values_ = to;
  }
  RowScales(const RowScales&) = delete;
  const float* values() const { return values_; }

 private:
  static constexpr int64_t kHere = 192;  // 24576 columns in blocks of 128
  float here_[kHere];
  std::vector<float> more_;
  const float* values_ = nullptr;
};

// Columns [first, first + n) of a row as float32 without their scales: of e4m3 the 2^-8 of the
// codes' values.
void decode_unscaled(const InnerLoops& loops, const WeightSegment& segment,
                     const QuantScheme& quant, int64_t row, int64_t first, int64_t n, float* out);

}  // namespace dsr::cpu
