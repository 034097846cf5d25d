// One row of RMSNorm, shared by the definitions of the ops that contain it.
#pragma once

#include <cmath>

#include "ops/ref/rows.h"

namespace dsr::ref {

inline void rms_norm_row(Row& x, const float* weight, float eps) {
  const auto n = static_cast<double>(x.size());
  const double mean_square = dot(x.data(), x.data(), static_cast<int64_t>(x.size())) / n;
  const auto scale = static_cast<float>(1.0 / std::sqrt(mean_square + static_cast<double>(eps)));
  for (size_t i = 0; i < x.size(); ++i) x[i] = x[i] * scale * weight[i];
}

}  // namespace dsr::ref
