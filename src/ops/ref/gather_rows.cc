#include "ops/gather_rows.h"

#include "ops/ref/rows.h"

namespace dsr {

void ref::gather_rows(Exec&, const GatherRowsArgs& a) {
  for (int64_t i = 0; i < a.out.shape[0]; ++i) {
    const int32_t id = *a.row_ids.ptr<int32_t>(i);
    DSR_CHECK(id >= 0 && id < a.x.shape[0], id);
    store_row(a.out, i, load_row(a.x, id));
  }
}

}  // namespace dsr
