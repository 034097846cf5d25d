// Who allocated how much, and the allocations themselves.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace dsr {

// What a byte is for: the lines of a memory plan.
enum class MemoryKind { kWeights, kKvCache, kActivations, kBatch };
inline constexpr int kMemoryKinds = 4;
const char* name(MemoryKind kind);

// Bytes that the owners of one rank hold, by kind. A plan is the same numbers found by a dry run.
class MemoryAccount {
 public:
  int64_t bytes(MemoryKind kind) const { return bytes_[static_cast<size_t>(kind)]; }
  int64_t total_bytes() const;
  void add(MemoryKind kind, int64_t bytes) { bytes_[static_cast<size_t>(kind)] += bytes; }

 private:
  std::array<int64_t, kMemoryKinds> bytes_{};
};

// Every allocation starts at, and is rounded up to, a multiple of this.
inline constexpr int64_t kAlignBytes = 256;

class Exec;

// One allocation on the device of an Exec; move-only. In a dry run it is counted but has no data.
// The Exec outlives its buffers.
class Buffer {
 public:
  Buffer() = default;
  // Throws Error(kDoesNotFit) if the memory cannot be had.
  Buffer(Exec& exec, MemoryKind kind, int64_t bytes);
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer();

  std::byte* data() const { return data_; }
  int64_t size_bytes() const { return bytes_; }
  // Sets the bytes [begin, begin + count) to `byte`, in order with the ops before and after.
  void fill(int64_t begin, int64_t count, int byte);
  // Copies `count` bytes of the host to [begin, begin + count).
  void upload(int64_t begin, const void* from, int64_t count);

 private:
  void swap(Buffer& other) noexcept {
    std::swap(exec_, other.exec_);
    std::swap(kind_, other.kind_);
    std::swap(bytes_, other.bytes_);
    std::swap(data_, other.data_);
  }

  Exec* exec_ = nullptr;
  MemoryKind kind_ = MemoryKind::kWeights;
  int64_t bytes_ = 0;
  std::byte* data_ = nullptr;
};

}  // namespace dsr
