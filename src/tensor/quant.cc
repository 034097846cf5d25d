#include "tensor/quant.h"

#include <algorithm>
#include <cmath>

namespace dsr {

bool NanFreeRows::has(int64_t first, int64_t rows) const {
  for (int64_t u = first / kUnit; u * kUnit < first + rows; ++u)
    if (!known_[static_cast<size_t>(u)].load(std::memory_order_relaxed)) return false;
  return true;
}

void NanFreeRows::add(int64_t first, int64_t rows) {
  const int64_t end = first + rows == rows_ ? std::ssize(known_) : (first + rows) / kUnit;
  for (int64_t u = ceil_div(first, kUnit); u < end; ++u)
    known_[static_cast<size_t>(u)].store(true, std::memory_order_relaxed);
}

int64_t Weight::rows() const {
  int64_t n = 0;
  for (const WeightSegment& s : segments) n += s.data.shape[0];
  return n;
}

int64_t Weight::size_bytes() const {
  int64_t n = 0;
  for (const WeightSegment& s : segments)
    n += s.data.size_bytes() + (s.scales.rank() > 0 ? s.scales.size_bytes() : 0);
  return n;
}

std::string Weight::text() const {
  return str("[", rows(), ", ", columns(), "] in ", segments.size(), " segments");
}

void dequantize_row(const WeightSegment& segment, const QuantScheme& quant, int64_t row,
                    int64_t first, int64_t count, float* out) {
  const auto* bytes = static_cast<const std::byte*>(segment.data.at(row));
  to_f32(segment.data.dtype, bytes + first * size_bytes(segment.data.dtype), out, count);
  if (segment.data.dtype != DType::kF8E4M3) return;
  const int64_t scale_row = row / quant.block_rows;
  for (int64_t i = 0; i < count;) {
    const int64_t block = (first + i) / quant.block_columns;
    const int64_t end = std::min(count, (block + 1) * quant.block_columns - first);
    float scale = 0;
    const auto* scales = static_cast<const std::byte*>(segment.scales.at(scale_row));
    to_f32(segment.scales.dtype, scales + block * size_bytes(segment.scales.dtype), &scale, 1);
    for (; i < end; ++i) out[i] *= scale;
  }
}

float e4m3_scale(const float* x, int64_t n) {
  float amax = 0;
  for (int64_t i = 0; i < n; ++i) amax = std::fmax(amax, std::fabs(x[i]));
  if (amax == 0) return 1;
  return std::fmax(amax / 448.0f, 0x1p-120f);
}

void quantize_e4m3(const float* x, int64_t n, float scale, uint8_t* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = f32_to_e4m3(x[i] / scale);
}

void dequantize_e4m3(const uint8_t* x, int64_t n, float scale, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = e4m3_to_f32(x[i]) * scale;
}

}  // namespace dsr
