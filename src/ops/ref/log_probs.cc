#include "ops/log_probs.h"

#include "ops/ref/log_probs_row.h"

namespace dsr {

void ref::log_probs(Exec&, const LogProbsArgs& a) {
  for (int64_t l = 0; l < a.rows.shape[0]; ++l) log_probs_row(a, l);
}

}  // namespace dsr
