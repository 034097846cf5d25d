// How the rows of weights are shared out among threads.
#pragma once

#include <algorithm>
#include <vector>

#include "ops/cpu/dots.h"

namespace dsr::cpu {

// Multiply-adds that are worth a thread: some 30 us of work. To wake one that sleeps takes about as
// long on a virtual machine.
inline constexpr int64_t kGrainProducts = 1 << 19;

// How many pieces of `products` multiply-adds each are worth a thread.
inline int64_t grain(int64_t products) {
  return std::max<int64_t>(1, ceil_div(kGrainProducts, std::max<int64_t>(1, products)));
}

// Up to kTileRows rows of one segment.
struct RowTile {
  const WeightSegment* segment;
  int64_t first_row;  // in the segment
  int64_t row;        // in the weight
  int64_t rows;
};

inline int64_t tiles_of(const WeightSegment& s) { return ceil_div(s.data.shape[0], kTileRows); }

// Calls each(tile) for all rows of `w`, every thread a contiguous part of them.
template <typename Each>
void for_each_tile(CpuContext& cpu, const Weight& w, int64_t tokens, const Each& each) {
  int64_t n = 0;
  for (const WeightSegment& s : w.segments) n += tiles_of(s);
  cpu.parallel(n, grain(kTileRows * w.columns() * tokens), [&](int64_t begin, int64_t end) {
    int64_t tile = 0, row = 0;
    for (const WeightSegment& s : w.segments) {
      const int64_t here = tiles_of(s), N = s.data.shape[0];
      for (int64_t i = std::max<int64_t>(0, begin - tile); i < std::min(here, end - tile); ++i) {
        const int64_t first = i * kTileRows;
        each(RowTile{&s, first, row + first, std::min(kTileRows, N - first)});
      }
      tile += here;
      row += N;
    }
  });
}

inline std::vector<const float*> row_pointers(const Tensor& x) {
  std::vector<const float*> out(static_cast<size_t>(x.shape[0]));
  for (size_t t = 0; t < out.size(); ++t) out[t] = x.ptr<float>(static_cast<int64_t>(t));
  return out;
}

// out[t * token_stride + r] = silu(gate[r] . x[t]) * (up[r] . x[t])
struct GatedTile {
  const WeightSegment& gate;
  const WeightSegment& up;
  const QuantScheme& quant;
  int64_t first_row, rows;
  const float* const* x;
  int64_t tokens;
  float* out;
  int64_t token_stride;
};
void gated_tile(CpuContext& cpu, const GatedTile& a);

}  // namespace dsr::cpu
