#include "ops/embedding.h"

#include <algorithm>

#include "ops/ref/rows.h"

namespace dsr {
namespace {

int32_t id_of(const EmbeddingArgs& a, int64_t t) {
  const int32_t id = *a.token_ids.ptr<int32_t>(t);
  if (id >= 0) return id;
  const int64_t row = -1 - int64_t{id};
  DSR_CHECK(a.drawn.rank() > 0 && row < a.drawn.shape[0], id);
  return std::max(*a.drawn.ptr<int32_t>(row), 0);
}

}  // namespace

void ref::embedding(Exec&, const EmbeddingArgs& a) {
  for (int64_t t = 0; t < a.out.shape[0]; ++t) {
    const int32_t id = id_of(a, t);
    DSR_CHECK(id < a.table.shape[0], id);
    store_row(a.out, t, load_row(a.table, id));
  }
}

}  // namespace dsr
