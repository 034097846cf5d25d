#include "ops/embedding.h"

#include "ops/ref/rows.h"

namespace dsr {

void ref::embedding(Exec&, const EmbeddingArgs& a) {
  for (int64_t t = 0; t < a.out.shape[0]; ++t) {
    const int32_t id = *a.token_ids.ptr<int32_t>(t);
    DSR_CHECK(id >= 0 && id < a.table.shape[0], id);
    store_row(a.out, t, load_row(a.table, id));
  }
}

}  // namespace dsr
