// A Weight as the fast kernels see it: 16-byte loads, one type, one scale per 8 rows and 64
// columns.
//
// Rows are taken in units, the 16 rows of one m16n8k16 product. Plain: 16 rows of a segment. Paired
// (gate and up): 8 rows of the first segment and the same 8 of the second, so that a thread holds
// both factors of silu(gate) * up. Grouped (the heads of kv_b_proj): group by group, a range of
// rows in each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "tensor/quant.h"

namespace dsr::cuda {

inline constexpr int kMaxSegments = 4;

struct DenseSegment {
  const std::byte* data;    // [rows, K]
  const std::byte* scales;  // null where unscaled
  int rows;                 // in each group
  int first_unit;
  int column;  // of `out`, where row 0 goes
};

// How the codes and scales of a weight lie; the same for all of its segments.
struct DenseLayout {
  bool fp8;              // else bf16
  bool ue8m0;            // type of the scales, else f32
  int n_steps;           // of 64 bytes of every row
  int scale_step_shift;  // log2 of the steps that share a scale
  int block_rows_shift;  // log2 of the rows that share a scale
  int64_t row_bytes;
  int64_t scale_row_bytes;
};

struct DenseWeight {
  DenseLayout layout;
  DenseSegment segments[kMaxSegments];
  int n_segments;
  int n_units;  // of all groups
  int units_per_group;
  int group_rows;       // from one group to the next, in the weight
  int group_first_row;  // of the range
  int group_columns;    // from one group to the next, in `out`
};

// The layout of segments [rows, K], or nothing if the fast kernels cannot read them.
std::optional<DenseLayout> dense_layout(std::span<const WeightSegment> segments,
                                        const QuantScheme& quant, int64_t K);

// The first segments of `from` that go into one launch; their rows go to the columns from 0.
// Nothing if the fast kernels cannot read the first of them. `n_taken` may be less than all.
std::optional<DenseWeight> dense_weight(std::span<const WeightSegment> from,
                                        const QuantScheme& quant, int64_t K, int& n_taken);
// gate [F, K] and up [F, K].
std::optional<DenseWeight> paired_weight(const Weight& gate_up, int64_t K);
// Rows [first_row, first_row + rows) of each of n_groups times group_rows rows.
struct RowGroups {
  int64_t n_groups, group_rows, first_row, rows;
};
std::optional<DenseWeight> grouped_weight(const Weight& w, int64_t K, const RowGroups& groups);

}  // namespace dsr::cuda
