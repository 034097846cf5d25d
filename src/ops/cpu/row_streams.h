// Which rows the inner loops take together.
#pragma once

#include "ops/cpu/inner_loops.h"

namespace dsr::cpu {

// n rows that lie one behind the other, cut into kDotRows streams: step i takes row i of each. So a
// stream runs on through memory, in pages of its own, and the hardware's prefetching follows it;
// neighbouring rows at once are short streams that share pages, which it does not (README.md).
// Streams of unequal lengths take the first row of the next one as their last.
class RowStreams {
 public:
  explicit RowStreams(int64_t n) : n_(n) {}
  int64_t steps() const { return (n_ + kDotRows - 1) / kDotRows; }
  int64_t first(int64_t stream) const { return n_ * stream / kDotRows; }

 private:
  int64_t n_;
};

}  // namespace dsr::cpu
