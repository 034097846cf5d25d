// The transposed product: rows of weights, weighted and added up.
#pragma once

#include <vector>

#include "ops/cpu/inner_loops.h"
#include "tensor/quant.h"

namespace dsr::cpu {

//   sum[t][c] += x[t][r] * w[first_row + r][c],  r = 0, 1, ... rows - 1, in float32 and in that
//   order
//
// with fused multiply-adds; the scale of an e4m3 weight goes to the other side, as in dots: a code
// times round(scale * x).
struct AddRows {
  const WeightSegment& segment;
  const QuantScheme& quant;
  int64_t first_row, rows;
  const float* x;  // x[t * x_stride + r]
  int64_t x_stride, tokens;
  float* sum;  // [K] of each token, sum_stride apart
  int64_t sum_stride;
  int64_t next_row;  // of the segment, from where on rows will be wanted after these
};

// `memory` is kept between calls so that they need not allocate.
void add_rows(const InnerLoops& loops, const AddRows& a, std::vector<float>& memory);

}  // namespace dsr::cpu
