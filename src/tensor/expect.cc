#include "tensor/expect.h"

#include <algorithm>
#include <array>

namespace dsr {

bool DimSpec::matches(int64_t found) const {
  if (dim_ == nullptr) return found == value_;
  if (!dim_->bound()) dim_->bind(found);
  return dim_->value() == found;
}

std::string DimSpec::text(bool with_value) const {
  if (dim_ == nullptr) return std::to_string(value_);
  return with_value ? str(dim_->name(), "=", dim_->value()) : dim_->name();
}

void expect(const char* op, const char* what, const Tensor& t, std::initializer_list<DType> dtypes,
            std::initializer_list<DimSpec> shape) {
  DSR_CHECK(shape.size() <= kMaxRank, shape.size());
  bool good = std::find(dtypes.begin(), dtypes.end(), t.dtype) != dtypes.end() &&
              t.rank() == static_cast<int>(shape.size());
  // This runs before every op of every step: text is made only of what is wrong. A letter that this
  // tensor binds, perhaps to a wrong value, is shown without it.
  std::array<bool, kMaxRank> was_bound{};
  int i = 0;
  for (const DimSpec& d : shape) {
    was_bound[static_cast<size_t>(i)] = d.bound();
    good = good && d.matches(t.shape[i]);
    ++i;
  }
  good = good && (t.rank() == 0 || t.strides[static_cast<size_t>(t.rank() - 1)] == 1 ||
                  t.shape[t.rank() - 1] <= 1);
  if (good) return;
  std::string types, expected;
  for (const DType d : dtypes) types += (types.empty() ? "" : " or ") + std::string(name(d));
  for (size_t d = 0; d < shape.size(); ++d)
    expected += (d > 0 ? ", " : "") + shape.begin()[d].text(was_bound[d]);
  fail_internal(op, ": ", what, " is ", t.text(), ", expected ", types, " [", expected, "]");
}

void expect(const char* op, const char* what, const Tensor& t, DType dtype,
            std::initializer_list<DimSpec> shape) {
  expect(op, what, t, {dtype}, shape);
}

}  // namespace dsr
