// Bytes as they are:  out = x.
//
// For what passes between the host's pinned memory and a device's in every step. A kernel reads and
// writes pinned memory where it lies; a copy engine, which two kernels must wait for, costs a step
// more time than they do.
#pragma once

#include "device/exec.h"

namespace dsr {

struct CopyArgs {
  Tensor out;  // [N] u8; on CUDA it and x may be pinned memory of the host
  Tensor x;    // [N] u8
};
namespace ops {
void copy(Exec& exec, const CopyArgs& a);
}
namespace ref {
void copy(Exec& exec, const CopyArgs& a);
}
namespace cuda {
void copy(Exec& exec, const CopyArgs& a);
}
namespace cpu {
using ref::copy;
}

}  // namespace dsr
