// Who is told what every op wrote, as soon as it has.
#pragma once

#include <cstdint>
#include <vector>

#include "tensor/tensor.h"

namespace dsr {

class Exec;

// Belongs to an Exec (Exec::watch). It waits for every op that it looks at: slow, and nothing for
// work that is recorded into a graph.
class OpWatcher {
 public:
  virtual ~OpWatcher() = default;
  // The ops that follow belong to `place`, as a checkpoint calls it, or to its entry `index`.
  virtual void enter(const char* place, int64_t index) = 0;
  // This op was called; what is shown next was written by it.
  virtual void begin(Exec& exec, const char* op) = 0;
  // A tensor, by the name of the argument.
  virtual void look(Exec& exec, const char* what, const Tensor& t) = 0;
  // A row of something that is no tensor, its numbers on the host already.
  virtual void look(const char* what, int64_t row, const std::vector<float>& values) = 0;
};

}  // namespace dsr
