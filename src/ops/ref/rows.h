// Rows of activations as float32, for definitions that take bf16 and float32 alike.
#pragma once

#include <cmath>
#include <vector>

#include "tensor/tensor.h"

namespace dsr::ref {

using Row = std::vector<float>;

// Row (i, j) of a tensor: its last dimension.
inline void load_row(const Tensor& t, int64_t i, int64_t j, float* out) {
  to_f32(t.dtype, t.at(i, j), out, t.shape[t.rank() - 1]);
}
inline Row load_row(const Tensor& t, int64_t i, int64_t j = 0) {
  Row out(static_cast<size_t>(t.shape[t.rank() - 1]));
  load_row(t, i, j, out.data());
  return out;
}
// Rounds to the type of `t`.
inline void store_row(const Tensor& t, int64_t i, int64_t j, const float* in) {
  from_f32(t.dtype, in, t.at(i, j), t.shape[t.rank() - 1]);
}
inline void store_row(const Tensor& t, int64_t i, const Row& in) { store_row(t, i, 0, in.data()); }

// Products summed in float64: the definition that faster backends approximate.
inline double dot(const float* a, const float* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

inline float silu(float z) { return z / (1.0f + std::exp(-z)); }

}  // namespace dsr::ref
