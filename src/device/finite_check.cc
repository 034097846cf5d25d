#include "device/finite_check.h"

#include <algorithm>
#include <cmath>

#include "device/exec.h"

namespace dsr {
namespace {

bool is_broken(float v) { return !std::isfinite(v); }

const char* name_of_broken(float v) { return std::isnan(v) ? "nan" : v > 0 ? "inf" : "-inf"; }

// The index of element `i` in row-major order: "[2, 5]".
std::string index_text(const Shape& shape, int64_t i) {
  std::string out = "]";
  for (int d = shape.rank() - 1; d >= 0; --d) {
    out = (d > 0 ? ", " : "[") + std::to_string(i % shape[d]) + out;
    i /= shape[d];
  }
  return out;
}

// From the first element to behind the last one, what lies between rows included.
int64_t span_bytes(const Tensor& t) {
  int64_t last = 0;
  for (int d = 0; d < t.rank(); ++d) last += (t.shape[d] - 1) * t.strides[static_cast<size_t>(d)];
  return (last + 1) * size_bytes(t.dtype);
}

// The elements in row-major order.
std::vector<float> values_of(Exec& exec, const Tensor& t) {
  std::vector<std::byte> bytes(static_cast<size_t>(span_bytes(t)));
  exec.download(bytes.data(), t.data, std::ssize(bytes));
  const int64_t n = t.shape.elements(), width = t.shape[t.rank() - 1];
  std::vector<float> out(static_cast<size_t>(n));
  for (int64_t row = 0; row < n / width; ++row) {
    int64_t offset = 0, rest = row;
    for (int d = t.rank() - 2; d >= 0; --d) {
      offset += rest % t.shape[d] * t.strides[static_cast<size_t>(d)];
      rest /= t.shape[d];
    }
    to_f32(t.dtype, &bytes[static_cast<size_t>(offset * size_bytes(t.dtype))],
           &out[static_cast<size_t>(row * width)], width);
  }
  return out;
}

}  // namespace

void FiniteCheck::enter(const char* place, int64_t index) {
  place_ = place;
  index_ = index;
  n_ops_ = 0;
}

void FiniteCheck::begin(Exec& exec, const char* op) {
  op_ = op;
  ++n_ops_;
  if (exec.backend() != Backend::kCuda) return;
  try {
    exec.cuda().synchronize();
  } catch (const Error& e) {
    fail(e.kind(), here(), e.what());
  }
}

std::string FiniteCheck::here() const {
  const std::string entry = index_ < 0 ? "" : "." + std::to_string(index_);
  return str(place_, entry, ", op ", n_ops_, ", ", op_, ": ");
}

void FiniteCheck::look(Exec& exec, const char* what, const Tensor& t) {
  if (t.shape.elements() == 0 || !is_float(t.dtype)) return;
  const std::vector<float> values = values_of(exec, t);
  const auto first = std::find_if(values.begin(), values.end(), is_broken);
  if (first == values.end()) return;
  fail(ErrorKind::kNonFinite, here(), what, index_text(t.shape, first - values.begin()), " is ",
       name_of_broken(*first), " (", t.text(), ", ", std::count_if(first, values.end(), is_broken),
       " of ", values.size(), " numbers are not finite; all that was written before is)");
}

void FiniteCheck::look(const char* what, int64_t row, const std::vector<float>& values) {
  const auto first = std::find_if(values.begin(), values.end(), is_broken);
  if (first == values.end()) return;
  fail(ErrorKind::kNonFinite, here(), what, "[", row, ", ", first - values.begin(), "] is ",
       name_of_broken(*first), " (", values.size(),
       " numbers a row; all that was written before is finite)");
}

}  // namespace dsr
