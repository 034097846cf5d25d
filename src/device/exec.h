// Where and how ops run: the backend, its memory and its scratch space.
#pragma once

#include <memory>

#include "base/error.h"
#include "device/arena.h"
#include "device/cpu_context.h"
#include "device/cuda_context.h"
#include "device/memory.h"
#include "device/op_watcher.h"
#include "tensor/dtype.h"

namespace dsr {

enum class Backend {
  kReference,  // the definitions: plain loops, one thread
  kCpu,
  kCuda,
};
const char* name(Backend backend);

// One per rank; passed to every op. A dry run checks shapes and counts memory but computes nothing.
class Exec {
 public:
  // `cpu` is read where the backend is kCpu, `cuda` where it is kCuda.
  explicit Exec(Backend backend, bool dry_run = false, const CpuOptions& cpu = {},
                const CudaOptions& cuda = {});
  Exec(const Exec&) = delete;
  Exec& operator=(const Exec&) = delete;

  Backend backend() const { return backend_; }
  bool dry_run() const { return dry_run_; }
  // float32 on reference and cpu, bf16 on cuda.
  DType activation_dtype() const { return activation_dtype_; }
  MemoryAccount& memory() { return memory_; }
  Arena& scratch() { return scratch_; }
  // Of the cpu backend.
  CpuContext& cpu() {
    DSR_CHECK(cpu_ != nullptr, name(backend_));
    return *cpu_;
  }
  // Of the cuda backend.
  CudaContext& cuda() {
    DSR_CHECK(cuda_ != nullptr, name(backend_));
    return *cuda_;
  }
  CUstream_st* stream() { return cuda().stream(); }

  // Copies between the host and this device, after all ops so far; `from` may be reused when upload
  // returns, `to` be read when download returns. And every byte of `data` set.
  void upload(void* to, const void* from, int64_t bytes);
  void download(void* to, const void* from, int64_t bytes);
  void fill(void* data, int byte, int64_t bytes);

  // From now on ops are watched. A dry run has nothing to show.
  void watch(std::unique_ptr<OpWatcher> watcher) {
    if (!dry_run_) watcher_ = std::move(watcher);
  }
  // Null unless ops are watched.
  OpWatcher* watcher() { return watcher_.get(); }
  // Where in the model the ops that follow belong: a name of the checkpoint, and its entry.
  void enter(const char* place, int64_t index = -1) {
    if (watcher_ != nullptr) watcher_->enter(place, index);
  }

  // For op tests: the reference run on the activation type of another backend.
  static Exec reference_with(DType activation_dtype) {
    return Exec(Backend::kReference, false, activation_dtype);
  }

 private:
  Exec(Backend backend, bool dry_run, DType activation_dtype);

  Backend backend_;
  bool dry_run_;
  DType activation_dtype_;
  MemoryAccount memory_;               // before scratch_, whose buffer is counted here
  std::unique_ptr<CudaContext> cuda_;  // null on other backends; before scratch_, which it frees
  Arena scratch_;
  std::unique_ptr<CpuContext> cpu_;  // null on other backends
  std::unique_ptr<OpWatcher> watcher_;
};

}  // namespace dsr
