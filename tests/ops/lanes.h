// The definition of a dot product on the cpu, and numbers to try it on.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "ops/cpu/inner_loops.h"

namespace dsr::test {

inline std::vector<float> some_floats(int64_t n) {
  std::vector<float> out(static_cast<size_t>(n));
  for (size_t i = 0; i < out.size(); ++i)
    out[i] = static_cast<float>((i * 7919) % 1009) / 500.0f - 1.0f;
  return out;
}

// By the definition of inner_loops.h.
inline float dot_of(const float* w, const float* x, int64_t n) {
  float lanes[cpu::kLanes] = {};
  for (int64_t k = 0; k < n; ++k)
    lanes[k % cpu::kLanes] = std::fma(w[k], x[k], lanes[k % cpu::kLanes]);
  for (int64_t half = cpu::kLanes / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

}  // namespace dsr::test
