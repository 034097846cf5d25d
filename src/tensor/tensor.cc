#include "tensor/tensor.h"

namespace dsr {

Shape::Shape(std::initializer_list<int64_t> dims)
    : Shape(std::span<const int64_t>(dims.begin(), dims.size())) {}

Shape::Shape(std::span<const int64_t> dims) : rank_(static_cast<int>(dims.size())) {
  DSR_CHECK(rank_ <= kMaxRank, rank_);
  for (size_t i = 0; i < dims.size(); ++i) {
    DSR_CHECK(dims[i] >= 0, dims[i]);
    dims_[i] = dims[i];
  }
}

int64_t Shape::elements() const {
  int64_t n = 1;
  for (int i = 0; i < rank_; ++i) n *= dims_[static_cast<size_t>(i)];
  return n;
}

std::string Shape::text() const {
  std::string out = "[";
  for (int i = 0; i < rank_; ++i) out += (i > 0 ? ", " : "") + std::to_string((*this)[i]);
  return out + "]";
}

Tensor Tensor::of(const void* data, DType dtype, const Shape& shape) {
  Tensor t{const_cast<void*>(data), dtype, shape, {}};
  int64_t stride = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    t.strides[static_cast<size_t>(i)] = stride;
    stride *= shape[i];
  }
  return t;
}

bool Tensor::contiguous() const {
  int64_t stride = 1;
  for (int i = rank() - 1; i >= 0; --i) {
    if (shape[i] != 1 && strides[static_cast<size_t>(i)] != stride) return false;
    stride *= shape[i];
  }
  return true;
}

std::string Tensor::text() const { return str(name(dtype), " ", shape.text()); }

Tensor rows(const Tensor& t, int64_t first, int64_t count) {
  DSR_CHECK(t.rank() >= 1 && first >= 0 && count >= 0 && first + count <= t.shape[0], t.text(),
            first, count);
  Tensor out = t;
  out.data = t.at(first);
  out.shape[0] = count;
  return out;
}

Tensor columns(const Tensor& t, int64_t first, int64_t count) {
  const int last = t.rank() - 1;
  DSR_CHECK(last >= 0 && first >= 0 && count >= 0 && first + count <= t.shape[last], t.text(),
            first, count);
  Tensor out = t;
  if (t.data != nullptr)
    out.data = static_cast<std::byte*>(t.data) + first * dsr::size_bytes(t.dtype);
  out.shape[last] = count;
  return out;
}

Tensor reshape(const Tensor& t, const Shape& shape) {
  DSR_CHECK(t.shape.elements() == shape.elements(), t.text(), shape.text());
  if (t.contiguous()) return Tensor::of(t.data, t.dtype, shape);
  DSR_CHECK(t.rank() == 2 && shape.rank() == 3 && shape[0] == t.shape[0], t.text(), shape.text());
  Tensor out = t;
  out.shape = shape;
  out.strides = {t.strides[0], shape[2], 1, 0};
  return out;
}

}  // namespace dsr
