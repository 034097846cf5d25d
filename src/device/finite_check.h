// Looks at what ops write, and names the first number that is not finite (--debug-nan).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "device/op_watcher.h"

namespace dsr {

class FiniteCheck : public OpWatcher {
 public:
  void enter(const char* place, int64_t index) override;
  // An error of the device is thrown again behind "PLACE, op N, OP: ".
  void begin(Exec& exec, const char* op) override;
  // Throws Error(kNonFinite) "PLACE, op N, OP: WHAT[row, column] is nan (...)" for the first
  // element, in row-major order, that is not finite.
  void look(Exec& exec, const char* what, const Tensor& t) override;
  void look(const char* what, int64_t row, const std::vector<float>& values) override;

 private:
  // "PLACE, op N, OP: "
  std::string here() const;

  const char* place_ = "";
  int64_t index_ = -1;
  const char* op_ = "";
  int64_t n_ops_ = 0;  // since the place was entered
};

}  // namespace dsr
