// The few formulas that several op tests state, in double and straight from the papers. Nothing of
// src/ops is used here: these are what it is checked against.
#pragma once

#include <array>
#include <cmath>
#include <vector>

#include "support/close.h"
#include "tensor/quant.h"

namespace dsr::test {

struct Matrix {
  int64_t rows = 0, columns = 0;
  std::vector<double> values;

  Matrix(int64_t r, int64_t c) : rows(r), columns(c), values(static_cast<size_t>(r * c), 0.0) {}
  explicit Matrix(const Tensor& t)  // all dimensions but the last are rows
      : columns(t.shape[t.rank() - 1]), values(values_of(t)) {
    rows = columns > 0 ? static_cast<int64_t>(values.size()) / columns : 0;
  }
  double& operator()(int64_t i, int64_t j) { return values[static_cast<size_t>(i * columns + j)]; }
  double operator()(int64_t i, int64_t j) const {
    return values[static_cast<size_t>(i * columns + j)];
  }
};

// E4M3: sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinities.
inline double e4m3(uint8_t code) {
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return std::nan("");
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(1 + mantissa / 8.0, exponent - 7);
  return code >= 0x80 ? -magnitude : magnitude;
}

// The scale of element (i, j) of an FP8 tensor.
inline double block_scale(const WeightSegment& s, const QuantScheme& q, int64_t i, int64_t j) {
  const int64_t row = i / q.block_rows, column = j / q.block_columns;
  if (s.scales.dtype == DType::kF8E8M0)
    return std::ldexp(1.0, *(s.scales.ptr<uint8_t>(row) + column) - 127);
  return static_cast<double>(*(s.scales.ptr<float>(row) + column));
}

// A weight as numbers; the product of code and scale is a float32.
inline Matrix dense(const Weight& w) {
  Matrix out(w.rows(), w.columns());
  std::array<double, 256> numbers{};  // of all codes: millions of them are looked up
  for (size_t code = 0; code < numbers.size(); ++code)
    numbers[code] = e4m3(static_cast<uint8_t>(code));
  int64_t n = 0;
  for (const WeightSegment& s : w.segments) {
    const bool fp8 = s.data.dtype == DType::kF8E4M3;
    const std::vector<double> plain = fp8 ? std::vector<double>{} : values_of(s.data);
    for (int64_t i = 0; i < s.data.shape[0]; ++i, ++n) {
      double scale = 1;
      for (int64_t j = 0; j < out.columns; ++j) {
        if (fp8 && j % w.quant.block_columns == 0) scale = block_scale(s, w.quant, i, j);
        out(n, j) = fp8 ? static_cast<double>(
                              static_cast<float>(numbers[*(s.data.ptr<uint8_t>(i) + j)] * scale))
                        : plain[static_cast<size_t>(i * out.columns + j)];
      }
    }
  }
  return out;
}

// out[t][n] = sum_k x[t][k] w[n][k]
inline Matrix times_transposed(const Matrix& x, const Matrix& w) {
  Matrix out(x.rows, w.rows);
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t n = 0; n < w.rows; ++n)
      for (int64_t k = 0; k < x.columns; ++k) out(t, n) += x(t, k) * w(n, k);
  return out;
}

inline double silu(double z) { return z / (1 + std::exp(-z)); }

// x / sqrt(mean(x^2) + eps) * weight, row by row.
inline Matrix rms_normed(Matrix x, const std::vector<double>& weight, double eps) {
  for (int64_t t = 0; t < x.rows; ++t) {
    double squares = 0;
    for (int64_t d = 0; d < x.columns; ++d) squares += x(t, d) * x(t, d);
    const double root = std::sqrt(squares / static_cast<double>(x.columns) + eps);
    for (int64_t d = 0; d < x.columns; ++d) x(t, d) *= weight[static_cast<size_t>(d)] / root;
  }
  return x;
}

// A number as it is stored.
inline double stored(DType dtype, double value) {
  const auto v = static_cast<float>(value);
  float out = 0;
  uint32_t bytes = 0;
  from_f32(dtype, &v, &bytes, 1);
  to_f32(dtype, &bytes, &out, 1);
  return static_cast<double>(out);
}

}  // namespace dsr::test
