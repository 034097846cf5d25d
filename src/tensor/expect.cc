#include "tensor/expect.h"

#include <algorithm>

namespace dsr {

bool DimSpec::matches(int64_t found) const {
  if (dim_ == nullptr) return found == value_;
  if (!dim_->bound()) dim_->bind(found);
  return dim_->value() == found;
}

std::string DimSpec::text() const {
  if (dim_ == nullptr) return std::to_string(value_);
  return dim_->bound() ? str(dim_->name(), "=", dim_->value()) : dim_->name();
}

void expect(const char* op, const char* what, const Tensor& t, std::initializer_list<DType> dtypes,
            std::initializer_list<DimSpec> shape) {
  bool good = std::find(dtypes.begin(), dtypes.end(), t.dtype) != dtypes.end() &&
              t.rank() == static_cast<int>(shape.size());
  // The expected text is written before a mismatch can bind letters to wrong values.
  std::string expected = "[";
  int i = 0;
  for (const DimSpec& d : shape) {
    expected += (i > 0 ? ", " : "") + d.text();
    good = good && d.matches(t.shape[i]);
    ++i;
  }
  good = good && (t.rank() == 0 || t.strides[static_cast<size_t>(t.rank() - 1)] == 1 ||
                  t.shape[t.rank() - 1] <= 1);
  if (good) return;
  std::string types;
  for (const DType d : dtypes) types += (types.empty() ? "" : " or ") + std::string(name(d));
  fail_internal(op, ": ", what, " is ", t.text(), ", expected ", types, " ", expected, "]");
}

void expect(const char* op, const char* what, const Tensor& t, DType dtype,
            std::initializer_list<DimSpec> shape) {
  expect(op, what, t, {dtype}, shape);
}

}  // namespace dsr
