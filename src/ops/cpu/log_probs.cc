// Log-probabilities on the cpu: rows are shared out.
#include "ops/log_probs.h"

#include "ops/ref/log_probs_row.h"

namespace dsr {

void cpu::log_probs(Exec& exec, const LogProbsArgs& a) {
  exec.cpu().parallel(a.rows.shape[0], 1, [&](int64_t begin, int64_t end) {
    for (int64_t l = begin; l < end; ++l) ref::log_probs_row(a, l);
  });
}

}  // namespace dsr
