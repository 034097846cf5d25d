// Makes and owns the tensors and weights of a test; the same seed gives the same values.
#pragma once

#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "base/math.h"
#include "base/rng.h"
#include "device/cuda_context.h"
#include "device/memory.h"
#include "tensor/quant.h"
#include "tensor/tensor.h"

namespace dsr::test {

class TensorMaker {
 public:
  explicit TensorMaker(uint64_t seed) : random_(seed, /*stream=*/1) {}

  // Every byte 0xff: NaN in every float type, so that what an op does not write shows.
  Tensor empty(DType dtype, const Shape& shape);
  Tensor fill(DType dtype, const Shape& shape, const std::function<float()>& next);
  // Normal deviates, rounded to `dtype`.
  Tensor normal(DType dtype, const Shape& shape, float sigma = 1, float mean = 0) {
    return fill(dtype, shape, [&] { return mean + sigma * random_.next_normal(); });
  }
  Tensor f32(const Shape& shape, const std::vector<float>& values);
  Tensor i32(const Shape& shape, const std::vector<int32_t>& values);
  Tensor i64(const Shape& shape, const std::vector<int64_t>& values);
  // A copy with the same strides: columns() of something wider stay strided.
  Tensor copy(const Tensor& t);
  // The middle columns of a wider tensor: rows that do not touch each other.
  Tensor strided(const Tensor& wide, int64_t first, int64_t count);

  // Rows of one checkpoint tensor each, values of about `sigma`. For kF8E4M3: blocks of
  // `quant` with scales of type `scale_dtype` that differ by up to 16 between blocks.
  Weight weight(DType dtype, const std::vector<int64_t>& segment_rows, int64_t columns, float sigma,
                QuantScheme quant = {128, 128}, DType scale_dtype = DType::kF32);

  PhiloxStream& random() { return random_; }
  int32_t below(int64_t n) {
    return static_cast<int32_t>(random_.next_u32() % static_cast<uint32_t>(n));
  }

 private:
  WeightSegment segment(DType dtype, const Shape& shape, float sigma, QuantScheme quant,
                        DType scale_dtype);

  PhiloxStream random_;
  std::vector<std::unique_ptr<std::byte[]>> storage_;
  std::vector<PinnedMemory> pinned_;  // instead, where there is a GPU
  bool has_gpu_ = !cuda_devices().empty();
};

inline Tensor TensorMaker::empty(DType dtype, const Shape& shape) {
  const auto bytes = static_cast<size_t>(shape.elements() * size_bytes(dtype));
  std::byte* data = nullptr;
  if (has_gpu_) {
    // Not null where it is empty, and rounded up as every Buffer is: kernels may read whole words.
    pinned_.emplace_back(round_up(static_cast<int64_t>(bytes) + 1, kAlignBytes));
    data = pinned_.back().data();
  } else {
    storage_.push_back(std::make_unique<std::byte[]>(bytes + 1));
    data = storage_.back().get();
  }
  std::memset(data, 0xff, bytes + 1);
  return Tensor::of(data, dtype, shape);
}

inline Tensor TensorMaker::fill(DType dtype, const Shape& shape,
                                const std::function<float()>& next) {
  const Tensor t = empty(dtype, shape);
  auto* bytes = static_cast<std::byte*>(t.data);
  for (int64_t i = 0; i < shape.elements(); ++i) {
    const float value = next();
    from_f32(dtype, &value, bytes + i * size_bytes(dtype), 1);
  }
  return t;
}

namespace detail {
template <typename T>
Tensor with_values(Tensor t, const std::vector<T>& values) {
  DSR_CHECK(static_cast<int64_t>(values.size()) == t.shape.elements(), t.text(), values.size());
  if (!values.empty()) std::memcpy(t.data, values.data(), values.size() * sizeof(T));
  return t;
}
}  // namespace detail

inline Tensor TensorMaker::f32(const Shape& shape, const std::vector<float>& values) {
  return detail::with_values(empty(DType::kF32, shape), values);
}
inline Tensor TensorMaker::i32(const Shape& shape, const std::vector<int32_t>& values) {
  return detail::with_values(empty(DType::kI32, shape), values);
}
inline Tensor TensorMaker::i64(const Shape& shape, const std::vector<int64_t>& values) {
  return detail::with_values(empty(DType::kI64, shape), values);
}

inline Tensor TensorMaker::copy(const Tensor& t) {
  int64_t last = 0;  // offset of the last element
  for (int i = 0; i < t.rank(); ++i) last += (t.shape[i] - 1) * t.strides[static_cast<size_t>(i)];
  const bool any = t.shape.elements() > 0;
  Tensor out = t;
  out.data = empty(t.dtype, {any ? last + 1 : 0}).data;
  if (any) std::memcpy(out.data, t.data, static_cast<size_t>((last + 1) * size_bytes(t.dtype)));
  return out;
}

inline Tensor TensorMaker::strided(const Tensor& wide, int64_t first, int64_t count) {
  return columns(copy(wide), first, count);
}

inline WeightSegment TensorMaker::segment(DType dtype, const Shape& shape, float sigma,
                                          QuantScheme quant, DType scale_dtype) {
  if (dtype != DType::kF8E4M3) return {normal(dtype, shape, sigma), {}};
  // Codes of magnitude around 32, well inside e4m3's 448; scales 2^-2 .. 2^2 around sigma / 32.
  WeightSegment s;
  s.data = normal(dtype, shape, 32);
  s.scales = empty(scale_dtype,
                   {ceil_div(shape[0], quant.block_rows), ceil_div(shape[1], quant.block_columns)});
  auto* bytes = static_cast<uint8_t*>(s.scales.data);
  for (int64_t i = 0; i < s.scales.shape.elements(); ++i) {
    const float scale = sigma / 32 * std::exp2(4 * random_.next_uniform() - 2);
    if (scale_dtype == DType::kF8E8M0)
      bytes[i] = static_cast<uint8_t>(127 + std::lround(std::log2(scale)));
    else
      std::memcpy(bytes + i * 4, &scale, 4);
  }
  return s;
}

inline Weight TensorMaker::weight(DType dtype, const std::vector<int64_t>& segment_rows,
                                  int64_t columns, float sigma, QuantScheme quant,
                                  DType scale_dtype) {
  Weight w;
  if (dtype == DType::kF8E4M3) w.quant = quant;
  for (const int64_t n : segment_rows)
    w.segments.push_back(segment(dtype, {n, columns}, sigma, quant, scale_dtype));
  return w;
}

}  // namespace dsr::test
