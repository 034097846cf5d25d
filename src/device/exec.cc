#include "device/exec.h"

#include <cstring>

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

Exec::Exec(Backend backend, bool dry_run, const CpuOptions& cpu, const CudaOptions& cuda)
    : Exec(backend, dry_run, backend == Backend::kCuda ? DType::kBF16 : DType::kF32) {
  if (backend == Backend::kCpu) cpu_ = std::make_unique<CpuContext>(cpu, dry_run);
  if (backend == Backend::kCuda) cuda_ = std::make_unique<CudaContext>(cuda, dry_run);
}

Exec::Exec(Backend backend, bool dry_run, DType activation_dtype)
    : backend_(backend),
      dry_run_(dry_run),
      activation_dtype_(activation_dtype),
      scratch_(activation_dtype, dry_run) {}

void Exec::upload(void* to, const void* from, int64_t bytes) {
  if (backend_ == Backend::kCuda) return cuda_->upload(to, from, bytes);
  if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
}

void Exec::download(void* to, const void* from, int64_t bytes) {
  if (backend_ == Backend::kCuda) return cuda_->download(to, from, bytes);
  if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
}

void Exec::fill(void* data, int byte, int64_t bytes) {
  if (backend_ == Backend::kCuda) return cuda_->fill(data, byte, bytes);
  std::memset(data, byte, static_cast<size_t>(bytes));
}

}  // namespace dsr
