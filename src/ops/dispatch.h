// From a checked op to the backend that runs it.
#pragma once

#include "device/exec.h"
#include "ops/show_outputs.h"

namespace dsr {
// Throws Error(kDevice): this program was built without CUDA.
[[noreturn]] void fail_without_cuda(const char* op);
}  // namespace dsr

// A build without CUDA has no cuda case and a sentence instead.
#ifdef DSR_HAVE_CUDA
#define DSR_DISPATCH_CUDA(exec, op, args) ::dsr::cuda::op(exec, args)
#else
#define DSR_DISPATCH_CUDA(exec, op, args) ::dsr::fail_without_cuda(#op)
#endif

// The last line of every ops::f, after its checks. A dry run ends here but for cuda ops: any of
// these may take scratch, and in a dry run they take it and launch nothing.
#define DSR_DISPATCH(exec, op, args)                                           \
  do {                                                                         \
    if ((exec).dry_run() && (exec).backend() != ::dsr::Backend::kCuda) return; \
    DSR_DISPATCH_NOW(exec, op, args);                                          \
  } while (0)

// Of an op that takes scratch from the arena on cpu too: it is called in a dry run, to take it, and
// returns then.
#define DSR_DISPATCH_WITH_SCRATCH(exec, op, args)                                   \
  do {                                                                              \
    if ((exec).dry_run() && (exec).backend() == ::dsr::Backend::kReference) return; \
    DSR_DISPATCH_NOW(exec, op, args);                                               \
  } while (0)

#define DSR_DISPATCH_NOW(exec, op, args)                                   \
  do {                                                                     \
    switch ((exec).backend()) {                                            \
      case ::dsr::Backend::kReference:                                     \
        ::dsr::ref::op(exec, args);                                        \
        break;                                                             \
      case ::dsr::Backend::kCpu:                                           \
        ::dsr::cpu::op(exec, args);                                        \
        break;                                                             \
      case ::dsr::Backend::kCuda:                                          \
        DSR_DISPATCH_CUDA(exec, op, args);                                 \
        break;                                                             \
    }                                                                      \
    if ((exec).watcher() != nullptr) ::dsr::show_outputs(exec, #op, args); \
  } while (0)
