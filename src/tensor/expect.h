// Symbolic shapes: an op states its arguments' shapes once, with names, and the error text writes
// itself from what was found.
#pragma once

#include <initializer_list>

#include "tensor/tensor.h"

namespace dsr {

// A dimension letter. Bound by the first tensor that carries it, compared afterwards.
class Dim {
 public:
  explicit Dim(const char* name) : name_(name) {}
  const char* name() const { return name_; }
  bool bound() const { return value_ >= 0; }
  int64_t value() const {
    DSR_CHECK(bound(), name_);
    return value_;
  }
  void bind(int64_t v) { value_ = v; }

 private:
  const char* name_;
  int64_t value_ = -1;
};

// What one dimension must be: a letter or a number.
class DimSpec {
 public:
  DimSpec(Dim& dim) : dim_(&dim) {}          // NOLINT: reads as a shape
  DimSpec(int64_t value) : value_(value) {}  // NOLINT
  DimSpec(int value) : value_(value) {}      // NOLINT
  bool bound() const { return dim_ != nullptr && dim_->bound(); }
  bool matches(int64_t found) const;        // binds an unbound letter
  std::string text(bool with_value) const;  // of a letter "T=7" or "T"; "2048"

 private:
  Dim* dim_ = nullptr;
  int64_t value_ = 0;
};

// Throws Error(kInternal) "OP: WHAT is bf16 [7, 2048], expected f32 [T=7, D=4096]".
void expect(const char* op, const char* what, const Tensor& t, DType dtype,
            std::initializer_list<DimSpec> shape);
// The same for a tensor that may have any of several types.
void expect(const char* op, const char* what, const Tensor& t, std::initializer_list<DType> dtypes,
            std::initializer_list<DimSpec> shape);

}  // namespace dsr
