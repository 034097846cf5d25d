#include "device/memory.h"

#include <cstdlib>
#include <numeric>

#include "base/error.h"
#include "base/math.h"
#include "device/exec.h"

namespace dsr {

const char* name(MemoryKind kind) {
  switch (kind) {
    case MemoryKind::kWeights:
      return "weights";
    case MemoryKind::kKvCache:
      return "kv cache";
    case MemoryKind::kActivations:
      return "activations";
    case MemoryKind::kBatch:
      return "batch";
  }
  return "?";
}

int64_t MemoryAccount::total_bytes() const {
  return std::accumulate(bytes_.begin(), bytes_.end(), int64_t{0});
}

Buffer::Buffer(Exec& exec, MemoryKind kind, int64_t bytes)
    : exec_(&exec), kind_(kind), bytes_(round_up(bytes, kAlignBytes)) {
  if (!exec.dry_run() && bytes_ > 0) {
    void* data = exec.backend() == Backend::kCuda
                     ? exec.cuda().allocate(bytes_)
                     : std::aligned_alloc(kAlignBytes, static_cast<size_t>(bytes_));
    data_ = static_cast<std::byte*>(data);
    if (data_ == nullptr)
      fail(ErrorKind::kDoesNotFit, "memory: ", with_commas(bytes_), " bytes for ", name(kind),
           " cannot be allocated");
  }
  exec.memory().add(kind, bytes_);
}

Buffer::~Buffer() {
  if (exec_ == nullptr) return;
  exec_->memory().add(kind_, -bytes_);
  if (data_ == nullptr) return;
  if (exec_->backend() == Backend::kCuda)
    exec_->cuda().release(data_);
  else
    std::free(data_);
}

void Buffer::fill(int64_t begin, int64_t count, int byte) {
  exec_->fill(data_ + begin, byte, count);
}

void Buffer::upload(int64_t begin, const void* from, int64_t count) {
  exec_->upload(data_ + begin, from, count);
}

}  // namespace dsr
