#include "support/close.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

namespace dsr::test {
namespace {

// Calls visit(address) for every element in row-major order.
void for_each_element(const Tensor& t, const std::function<void(const std::byte*)>& visit) {
  std::vector<int64_t> at(static_cast<size_t>(t.rank()), 0);
  for (int64_t n = 0; n < t.shape.elements(); ++n) {
    int64_t offset = 0;
    for (size_t d = 0; d < at.size(); ++d) offset += at[d] * t.strides[d];
    visit(static_cast<const std::byte*>(t.data) + offset * size_bytes(t.dtype));
    for (size_t d = at.size(); d-- > 0;) {
      if (++at[d] < t.shape[static_cast<int>(d)]) break;
      at[d] = 0;
    }
  }
}

double value_at(DType dtype, const std::byte* p) {
  if (dtype == DType::kI32) {
    int32_t v = 0;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  if (dtype == DType::kU8) return static_cast<double>(std::to_integer<int>(*p));
  float v = 0;
  to_f32(dtype, p, &v, 1);
  return static_cast<double>(v);
}

std::string coordinates(const Shape& shape, int64_t index) {
  std::string out = "]";
  for (int d = shape.rank() - 1; d >= 0; --d) {
    out = (d > 0 ? ", " : "") + std::to_string(index % shape[d]) + out;
    index /= shape[d];
  }
  return "[" + out;
}

// 0: finite, 1: NaN, 2: +inf, 3: -inf.
int kind(double v) {
  if (std::isfinite(v)) return 0;
  if (std::isnan(v)) return 1;
  return v > 0 ? 2 : 3;
}

std::string pair_text(const Shape& shape, size_t i, double got, double want) {
  std::ostringstream out;
  out.precision(9);
  out << " at " << coordinates(shape, static_cast<int64_t>(i)) << ": got " << got << ", want "
      << want;
  return out.str();
}

}  // namespace

std::vector<double> values_of(const Tensor& t) {
  std::vector<double> out;
  out.reserve(static_cast<size_t>(t.shape.elements()));
  for_each_element(t, [&](const std::byte* p) { out.push_back(value_at(t.dtype, p)); });
  return out;
}

testing::AssertionResult close(const Tensor& got, const std::vector<double>& want, Tolerance tol) {
  const std::vector<double> g = values_of(got);
  if (g.size() != want.size())
    return testing::AssertionFailure()
           << got.text() << " compared with " << want.size() << " values";
  size_t worst = 0, outside = 0;
  double worst_ratio = -1, error_sum = 0, allowed_sum = 0;
  for (size_t i = 0; i < g.size(); ++i) {
    if (kind(g[i]) != kind(want[i]))
      return testing::AssertionFailure()
             << "finite in one only" << pair_text(got.shape, i, g[i], want[i]);
    if (kind(g[i]) != 0) continue;
    const double error = std::fabs(g[i] - want[i]),
                 allowed = tol.rel * std::fabs(want[i]) + tol.abs;
    error_sum += error * error;
    allowed_sum += allowed * allowed;
    if (error > allowed) ++outside;
    // Where nothing is allowed every error is as bad as its size.
    const double ratio = allowed > 0 ? error / allowed : error;
    if (ratio > worst_ratio) {
      worst_ratio = ratio;
      worst = i;
    }
  }
  if (outside > 0) {
    const double allowed = tol.rel * std::fabs(want[worst]) + tol.abs;
    return testing::AssertionFailure()
           << "worst" << pair_text(got.shape, worst, g[worst], want[worst]) << ", off by "
           << std::fabs(g[worst] - want[worst]) << ", allowed " << allowed << "; " << outside
           << " of " << g.size() << " outside ("
           << 100.0 * static_cast<double>(outside) / static_cast<double>(g.size()) << " %)";
  }
  if (g.size() >= 64 && error_sum > 0.5 * allowed_sum)
    return testing::AssertionFailure()
           << "every element is inside its tolerance, but together they are off: "
           << "sum of squared errors " << error_sum << ", of squared tolerances " << allowed_sum
           << "; worst" << pair_text(got.shape, worst, g[worst], want[worst]);
  return testing::AssertionSuccess();
}

testing::AssertionResult close(const Tensor& got, const Tensor& want, Tolerance tol) {
  if (got.shape != want.shape)
    return testing::AssertionFailure() << got.text() << " compared with " << want.text();
  return close(got, values_of(want), tol);
}

testing::AssertionResult same_bits(const Tensor& got, const Tensor& want) {
  if (got.shape != want.shape || got.dtype != want.dtype)
    return testing::AssertionFailure() << got.text() << " compared with " << want.text();
  std::vector<const std::byte*> g, w;
  for_each_element(got, [&](const std::byte* p) { g.push_back(p); });
  for_each_element(want, [&](const std::byte* p) { w.push_back(p); });
  for (size_t i = 0; i < g.size(); ++i)
    if (std::memcmp(g[i], w[i], static_cast<size_t>(size_bytes(got.dtype))) != 0)
      return testing::AssertionFailure()
             << "other bits"
             << pair_text(got.shape, i, value_at(got.dtype, g[i]), value_at(want.dtype, w[i]));
  return testing::AssertionSuccess();
}

}  // namespace dsr::test
