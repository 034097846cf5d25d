// Checks of Weight arguments, shared by the ops that take one.
#pragma once

#include "tensor/expect.h"
#include "tensor/quant.h"

namespace dsr {

// Every segment is [rows_i, columns] of a type weights come in, with scales exactly where the data
// is f8_e4m3, and the rows add up to `rows`. Throws Error(kInternal).
void expect_weight(const char* op, const char* what, const Weight& w, DimSpec rows,
                   DimSpec columns);

}  // namespace dsr
