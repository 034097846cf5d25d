// The rotary position table that every attention op reads.
#pragma once

#include "tensor/tensor.h"

namespace dsr {

// cos and sin of every position's angles, float32, one table for all backends.
struct RopeTable {
  Tensor cos;  // [P, r / 2] f32
  Tensor sin;  // [P, r / 2] f32
};

}  // namespace dsr
