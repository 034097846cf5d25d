#include "ops/weight_check.h"

#include "base/math.h"

namespace dsr {

void expect_weight(const char* op, const char* what, const Weight& w, DimSpec rows,
                   DimSpec columns) {
  if (!rows.matches(w.rows()) || !columns.matches(w.columns()))
    fail_internal(op, ": ", what, " is ", w.text(), ", expected [", rows.text(rows.bound()), ", ",
                  columns.text(columns.bound()), "]");
  for (const WeightSegment& s : w.segments) {
    const int64_t n = s.data.shape[0], k = s.data.shape[1];
    expect(op, what, s.data, {DType::kBF16, DType::kF16, DType::kF32, DType::kF8E4M3},
           {n, w.columns()});
    if (s.data.dtype == DType::kF8E4M3) {
      DSR_CHECK(w.quant.block_rows > 0 && w.quant.block_columns > 0, op, what);
      expect(op, what, s.scales, {DType::kF32, DType::kF8E8M0},
             {ceil_div(n, w.quant.block_rows), ceil_div(k, w.quant.block_columns)});
    }
  }
}

}  // namespace dsr
