#include "ops/dispatch.h"

namespace dsr {

void fail_without_cuda(const char* op) {
  fail(ErrorKind::kDevice, op, ": this program was built without CUDA");
}

}  // namespace dsr
