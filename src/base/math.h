// Integer helpers that every room uses.
#pragma once

#include <cstdint>

namespace dsr {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t multiple) { return ceil_div(a, multiple) * multiple; }

// a * b, or -1 if the product of two non-negative numbers does not fit.
constexpr int64_t checked_mul(int64_t a, int64_t b) {
  int64_t out = 0;
  return __builtin_mul_overflow(a, b, &out) ? -1 : out;
}

}  // namespace dsr
