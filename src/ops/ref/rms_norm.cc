#include "ops/rms_norm.h"

#include "ops/ref/rms_norm_row.h"
#include "ops/ref/rows.h"

namespace dsr {

void ref::rms_norm(Exec&, const RmsNormArgs& a) {
  for (int64_t t = 0; t < a.x.shape[0]; ++t) {
    Row x = load_row(a.x, t);
    rms_norm_row(x, a.weight.ptr<float>(), a.eps);
    store_row(a.out, t, x);
  }
}

void ref::add_rms_norm(Exec&, const AddRmsNormArgs& a) {
  for (int64_t t = 0; t < a.x.shape[0]; ++t) {
    const Row x = load_row(a.x, t);
    Row r = load_row(a.residual, t);
    for (size_t i = 0; i < r.size(); ++i) r[i] += x[i];
    store_row(a.residual, t, r);
    r = load_row(a.residual, t);  // as it is stored
    rms_norm_row(r, a.weight.ptr<float>(), a.eps);
    store_row(a.out, t, r);
  }
}

}  // namespace dsr
