#include "device/arena.h"

#include <algorithm>

#include "base/math.h"

namespace dsr {

void Arena::reserve(Buffer buffer) {
  DSR_CHECK(used_bytes_ == 0, used_bytes_);
  buffer_ = std::move(buffer);
}

Tensor Arena::tensor(DType dtype, const Shape& shape) {
  const int64_t bytes = round_up(shape.elements() * size_bytes(dtype), kAlignBytes);
  const int64_t begin = used_bytes_;
  used_bytes_ += bytes;
  peak_bytes_ = std::max(peak_bytes_, used_bytes_);
  if (dry_run_) return Tensor::of(nullptr, dtype, shape);
  DSR_CHECK(used_bytes_ <= buffer_.size_bytes(), used_bytes_, " > ", buffer_.size_bytes());
  std::byte* data = buffer_.data() + begin;
  if (poison_) buffer_.fill(begin, bytes, 0xff);
  return Tensor::of(data, dtype, shape);
}

}  // namespace dsr
