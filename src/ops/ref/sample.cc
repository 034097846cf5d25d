#include "ops/sample.h"

#include "ops/ref/sample_row.h"

namespace dsr {

void ref::sample(Exec&, const SampleArgs& a) {
  for (int64_t r = 0; r < a.logits.shape[0]; ++r)
    sample_row(a, r, [](const Row& logits, const SampleRow& row, const Tensor& allowed) {
      return kept(candidates(logits, row, allowed), row);
    });
}

}  // namespace dsr
