// Weights row by row as float32.
#pragma once

#include "ops/ref/rows.h"
#include "tensor/quant.h"

namespace dsr::ref {

// Calls visit(n, w) for every row n of `weight`, w [K] dequantised.
template <typename Visit>
void for_each_row(const Weight& weight, const Visit& visit) {
  const int64_t K = weight.columns();
  Row w(static_cast<size_t>(K));
  int64_t n = 0;
  for (const WeightSegment& segment : weight.segments) {
    for (int64_t row = 0; row < segment.data.shape[0]; ++row, ++n) {
      dequantize_row(segment, weight.quant, row, 0, K, w.data());
      visit(n, w.data());
    }
  }
}

inline std::vector<Row> load_rows(const Tensor& x) {
  std::vector<Row> out;
  for (int64_t t = 0; t < x.shape[0]; ++t) out.push_back(load_row(x, t));
  return out;
}

}  // namespace dsr::ref
