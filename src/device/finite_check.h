// Looks at what ops write, and names the first number that is not finite (--debug-nan).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace dsr {

class Exec;

// One per Exec that was told to look. It knows where in the model the op is that it looks at.
class FiniteCheck {
 public:
  // The ops that follow belong to `place`, as a checkpoint calls it, or to its entry `index`.
  void enter(const char* place, int64_t index);
  // This op was called; what is looked at next was written by it. Waits for it: an error of the
  // device is thrown again behind "PLACE, op N, OP: ".
  void begin(Exec& exec, const char* op);

  // Throws Error(kNonFinite) "PLACE, op N, OP: WHAT[row, column] is nan (...)"
  // for the first element, in row-major order, that is not finite.
  void look(Exec& exec, const char* what, const Tensor& t) const;
  // The same of a row whose numbers are on the host already.
  void look(const char* what, int64_t row, const std::vector<float>& values) const;

 private:
  // "PLACE, op N, OP: "
  std::string here() const;

  const char* place_ = "";
  int64_t index_ = -1;
  const char* op_ = "";
  int64_t n_ops_ = 0;  // since the place was entered
};

}  // namespace dsr
