// RMSNorm on the cpu: sums of squares by the dot product of inner_loops.h.
#include "ops/rms_norm.h"

#include <cmath>

#include "ops/cpu/tiles.h"

namespace dsr::cpu {
namespace {

void rms_norm_row(const InnerLoops& loops, const float* x, const float* weight, float eps,
                  int64_t n, float* out) {
  const double mean_square = static_cast<double>(dot(loops, x, x, n)) / static_cast<double>(n);
  const auto scale = static_cast<float>(1.0 / std::sqrt(mean_square + static_cast<double>(eps)));
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] * scale * weight[i];
}

}  // namespace

void rms_norm(Exec& exec, const RmsNormArgs& a) {
  const InnerLoops& loops = inner_loops(exec.cpu().level());
  const int64_t D = a.x.shape[1];
  exec.cpu().parallel(a.x.shape[0], grain(4 * D), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      rms_norm_row(loops, a.x.ptr<float>(t), a.weight.ptr<float>(), a.eps, D, a.out.ptr<float>(t));
  });
}

void add_rms_norm(Exec& exec, const AddRmsNormArgs& a) {
  const InnerLoops& loops = inner_loops(exec.cpu().level());
  const int64_t D = a.x.shape[1];
  exec.cpu().parallel(a.x.shape[0], grain(4 * D), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      auto* residual = a.residual.ptr<float>(t);
      const auto* x = a.x.ptr<float>(t);
      for (int64_t i = 0; i < D; ++i) residual[i] += x[i];
      rms_norm_row(loops, residual, a.weight.ptr<float>(), a.eps, D, a.out.ptr<float>(t));
    }
  });
}

}  // namespace dsr::cpu
