#include "device/exec.h"

namespace dsr {

const char* name(Backend backend) {
  switch (backend) {
    case Backend::kReference:
      return "reference";
    case Backend::kCpu:
      return "cpu";
    case Backend::kCuda:
      return "cuda";
  }
  return "?";
}

Exec::Exec(Backend backend, bool dry_run, const CpuOptions& cpu)
    : Exec(backend, dry_run, backend == Backend::kCuda ? DType::kBF16 : DType::kF32) {
  if (backend == Backend::kCpu) cpu_ = std::make_unique<CpuContext>(cpu, dry_run);
}

Exec::Exec(Backend backend, bool dry_run, DType activation_dtype)
    : backend_(backend),
      dry_run_(dry_run),
      activation_dtype_(activation_dtype),
      scratch_(activation_dtype, dry_run) {}

}  // namespace dsr
