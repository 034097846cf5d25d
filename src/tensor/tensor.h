// Shape and Tensor: a view of memory that somebody else owns.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "base/error.h"
#include "tensor/dtype.h"

namespace dsr {

inline constexpr int kMaxRank = 4;

// Up to four dimensions. Sizes are never negative.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims);
  explicit Shape(std::span<const int64_t> dims);

  int rank() const { return rank_; }
  int64_t operator[](int i) const { return dims_[static_cast<size_t>(i)]; }
  int64_t& operator[](int i) { return dims_[static_cast<size_t>(i)]; }
  int64_t elements() const;
  bool operator==(const Shape&) const = default;
  std::string text() const;  // "[56, 16]"

 private:
  int rank_ = 0;
  std::array<int64_t, kMaxRank> dims_{};
};

// A view: pointer, element type, shape, strides. Copy it freely; it owns nothing. The last
// dimension is contiguous. `data` is null in a dry run, where only shapes are real.
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  Shape shape;
  std::array<int64_t, kMaxRank> strides{};  // in elements; the last one is 1

  // A contiguous view. Constness is not tracked: weights come from read-only maps.
  static Tensor of(const void* data, DType dtype, const Shape& shape);

  int rank() const { return shape.rank(); }
  int64_t size_bytes() const { return shape.elements() * dsr::size_bytes(dtype); }
  bool contiguous() const;

  // The address of element (i, j, 0, ...); null in a dry run.
  void* at(int64_t i, int64_t j = 0, int64_t k = 0) const {
    if (data == nullptr) return nullptr;
    const int64_t offset = i * strides[0] + j * strides[1] + k * strides[2];
    return static_cast<std::byte*>(data) + offset * dsr::size_bytes(dtype);
  }
  template <typename T>
  T* ptr(int64_t i = 0, int64_t j = 0, int64_t k = 0) const {
    return static_cast<T*>(at(i, j, k));
  }
  std::string text() const;  // "bf16 [7, 2048]"
};

// Rows [first, first + count) of the first dimension, all of the others.
Tensor rows(const Tensor& t, int64_t first, int64_t count);
// Columns [first, first + count) of the last dimension.
Tensor columns(const Tensor& t, int64_t first, int64_t count);
// The same elements of a contiguous tensor in another shape; a rank-2 tensor whose rows are strided
// may split its last dimension ([T, H*d] -> [T, H, d]).
Tensor reshape(const Tensor& t, const Shape& shape);

}  // namespace dsr
