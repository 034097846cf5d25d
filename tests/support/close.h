// Comparison of tensors that says what is wrong and where.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "tensor/tensor.h"

namespace dsr::test {

// An element is inside where |got - want| <= rel * |want| + abs. {} asks for equal values.
struct Tolerance {
  double rel = 0;
  double abs = 0;
};

// The elements in row-major order, whatever the strides. Any type but f8 and u8 scales.
std::vector<double> values_of(const Tensor& t);

// Fails, in this order, where NaN or infinities stand in different places; where an element is
// outside the tolerance; where, among 64 elements or more, sum (got - want)^2 exceeds half of the
// sum of the squared tolerances: rounding errors spread evenly give a third, a bias gives all of
// it. Reports the worst element, its coordinates and the share outside.
testing::AssertionResult close(const Tensor& got, const std::vector<double>& want, Tolerance tol);
testing::AssertionResult close(const Tensor& got, const Tensor& want, Tolerance tol);

// The same bytes, element by element; NaN equals NaN.
testing::AssertionResult same_bits(const Tensor& got, const Tensor& want);

}  // namespace dsr::test
