#include "gemm/dense_weight.h"

#include <algorithm>
#include <bit>

#include "base/math.h"

namespace dsr::cuda {
namespace {

constexpr int64_t kStepBytes = 64;  // of a row: 16 bytes in each thread of a quad
constexpr int64_t kUnitRows = 16, kPairedRows = 8;
constexpr int64_t kScaleColumns = 128;  // e4m3 codes in two steps, which share a scale

const std::byte* bytes(const Tensor& t) { return static_cast<const std::byte*>(t.data); }
bool aligned_16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

bool same_types(const WeightSegment& a, const WeightSegment& b) {
  return a.data.dtype == b.data.dtype &&
         (a.data.dtype != DType::kF8E4M3 || a.scales.dtype == b.scales.dtype);
}

DenseSegment segment(const WeightSegment& s, int64_t rows, int64_t first_unit, int64_t column) {
  return {.data = bytes(s.data),
          .scales = s.data.dtype == DType::kF8E4M3 ? bytes(s.scales) : nullptr,
          .rows = static_cast<int>(rows),
          .first_unit = static_cast<int>(first_unit),
          .column = static_cast<int>(column)};
}

}  // namespace

std::optional<DenseLayout> dense_layout(std::span<const WeightSegment> segments,
                                        const QuantScheme& quant, int64_t K) {
  const DType dtype = segments.front().data.dtype;
  const bool fp8 = dtype == DType::kF8E4M3;
  const int64_t row_bytes = K * size_bytes(dtype);
  if ((!fp8 && dtype != DType::kBF16) || row_bytes % kStepBytes != 0) return std::nullopt;
  for (const WeightSegment& s : segments)
    if (!same_types(s, segments.front()) || !aligned_16(s.data.data)) return std::nullopt;
  DenseLayout out{.fp8 = fp8,
                  .ue8m0 = false,
                  .n_steps = static_cast<int>(row_bytes / kStepBytes),
                  .scale_step_shift = 0,
                  .block_rows_shift = 0,
                  .row_bytes = row_bytes,
                  .scale_row_bytes = 0};
  if (!fp8) return out;
  const auto steps = static_cast<uint64_t>(quant.block_columns / kStepBytes);
  if (quant.block_columns % kScaleColumns != 0 || !std::has_single_bit(steps) ||
      quant.block_rows % kPairedRows != 0 ||
      !std::has_single_bit(static_cast<uint64_t>(quant.block_rows)))
    return std::nullopt;
  const DType scale_dtype = segments.front().scales.dtype;
  out.ue8m0 = scale_dtype == DType::kF8E8M0;
  out.scale_step_shift = std::countr_zero(steps);
  out.block_rows_shift = std::countr_zero(static_cast<uint64_t>(quant.block_rows));
  out.scale_row_bytes = ceil_div(K, quant.block_columns) * size_bytes(scale_dtype);
  return out;
}

std::optional<DenseWeight> dense_weight(std::span<const WeightSegment> from,
                                        const QuantScheme& quant, int64_t K, int& n_taken) {
  n_taken = 1;
  while (n_taken < kMaxSegments && n_taken < static_cast<int>(from.size()) &&
         same_types(from[static_cast<size_t>(n_taken)], from.front()))
    ++n_taken;
  const auto taken = from.first(static_cast<size_t>(n_taken));
  const std::optional<DenseLayout> layout = dense_layout(taken, quant, K);
  if (!layout) return std::nullopt;
  DenseWeight out{};
  out.layout = *layout;
  int64_t column = 0;
  for (const WeightSegment& s : taken) {
    const int64_t rows = s.data.shape[0];
    out.segments[out.n_segments++] = segment(s, rows, out.n_units, column);
    out.n_units += static_cast<int>(ceil_div(rows, kUnitRows));
    column += rows;
  }
  out.units_per_group = std::max(out.n_units, 1);
  return out;
}

std::optional<DenseWeight> paired_weight(const Weight& gate_up, int64_t K) {
  const std::vector<WeightSegment>& s = gate_up.segments;
  if (s.size() != 2 || s[0].data.shape[0] != s[1].data.shape[0]) return std::nullopt;
  const std::optional<DenseLayout> layout = dense_layout(s, gate_up.quant, K);
  if (!layout) return std::nullopt;
  const int64_t F = s[0].data.shape[0];
  DenseWeight out{};
  out.layout = *layout;
  out.n_segments = 2;
  out.segments[0] = segment(s[0], F, 0, 0);
  out.segments[1] = segment(s[1], F, 0, 0);
  out.n_units = out.units_per_group = static_cast<int>(ceil_div(F, kPairedRows));
  return out;
}

std::optional<DenseWeight> grouped_weight(const Weight& w, int64_t K, const RowGroups& groups) {
  if (w.segments.size() != 1) return std::nullopt;
  const std::optional<DenseLayout> layout = dense_layout(w.segments, w.quant, K);
  if (!layout) return std::nullopt;
  // A scale is read once for 8 rows.
  if (layout->fp8 && (groups.group_rows % kPairedRows != 0 || groups.first_row % kPairedRows != 0))
    return std::nullopt;
  DenseWeight out{};
  out.layout = *layout;
  out.n_segments = 1;
  out.segments[0] = segment(w.segments[0], groups.rows, 0, 0);
  out.units_per_group = static_cast<int>(ceil_div(groups.rows, kUnitRows));
  out.n_units = out.units_per_group * static_cast<int>(groups.n_groups);
  out.group_rows = static_cast<int>(groups.group_rows);
  out.group_first_row = static_cast<int>(groups.first_row);
  out.group_columns = static_cast<int>(groups.rows);
  return out;
}

}  // namespace dsr::cuda
