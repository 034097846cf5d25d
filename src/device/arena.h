// All activations of a step come from here: a stack of tensors over one buffer.
#pragma once

#include <cstdint>

#include "device/memory.h"
#include "tensor/tensor.h"

namespace dsr {

// Not thread-safe: one arena per Exec, used by the rank's own thread. In a dry run tensors have
// shapes but no data, and `peak_bytes` is what a real run will need.
class Arena {
 public:
  Arena(DType activation_dtype, bool dry_run)
      : activation_dtype_(activation_dtype), dry_run_(dry_run) {}

  // Gives the arena its memory. Nothing may be in use.
  void reserve(Buffer buffer);

  // A contiguous tensor, uninitialised, at an address that is a multiple of kAlignBytes. Throws
  // Error(kInternal) if the plan was too small.
  Tensor tensor(DType dtype, const Shape& shape);
  Tensor activation(const Shape& shape) { return tensor(activation_dtype_, shape); }

  int64_t used_bytes() const { return used_bytes_; }
  int64_t peak_bytes() const { return peak_bytes_; }
  int64_t capacity_bytes() const { return buffer_.size_bytes(); }

  // For tests: fill every tensor handed out with 0xff bytes (NaN in every float type).
  void set_poison(bool on) { poison_ = on; }

  // Releases, at its end, everything taken since its start.
  class Scope {
   public:
    explicit Scope(Arena& arena) : arena_(arena), mark_(arena.used_bytes_) {}
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    ~Scope() { arena_.used_bytes_ = mark_; }

   private:
    Arena& arena_;
    int64_t mark_;
  };

 private:
  DType activation_dtype_;
  bool dry_run_;
  bool poison_ = false;
  Buffer buffer_;
  int64_t used_bytes_ = 0;
  int64_t peak_bytes_ = 0;
};

}  // namespace dsr
