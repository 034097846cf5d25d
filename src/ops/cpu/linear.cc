// Linear layers on the cpu: rows of weights are shared out in tiles, each thread a contiguous part.
#include "ops/linear.h"

#include <vector>

#include "ops/cpu/dots.h"
#include "ops/cpu/tiles.h"
#include "ops/ref/rows.h"

namespace dsr::cpu {

void linear(Exec& exec, const LinearArgs& a) {
  const std::vector<const float*> x = row_pointers(a.x);
  const auto* bias = a.bias.rank() > 0 ? a.bias.ptr<float>() : nullptr;
  const int64_t T = a.x.shape[0];
  for_each_tile(exec.cpu(), a.w, T, 1, [&](const RowTile& tile, int64_t first, int64_t n) {
    auto* out = a.out.ptr<float>(first) + tile.row;
    dots(exec.cpu(), {.segment = *tile.segment,
                      .quant = a.w.quant,
                      .first_row = tile.first_row,
                      .rows = tile.rows,
                      .x = x.data() + first,
                      .tokens = n,
                      .out = out,
                      .token_stride = a.out.strides[0]});
    if (bias == nullptr) return;
    for (int64_t t = 0; t < n; ++t)
      for (int64_t r = 0; r < tile.rows; ++r) out[t * a.out.strides[0] + r] += bias[tile.row + r];
  });
}

void swiglu(Exec& exec, const SwigluArgs& a) {
  // gate and up are one segment each, unless a test cuts them otherwise.
  const std::vector<WeightSegment>& s = a.gate_up.segments;
  if (s.size() != 2 || s[0].data.shape[0] != s[1].data.shape[0]) return ref::swiglu(exec, a);
  const std::vector<const float*> x = row_pointers(a.x);
  const Weight gate{{s[0]}, a.gate_up.quant};
  const int64_t T = a.x.shape[0];
  for_each_tile(exec.cpu(), gate, T, 2, [&](const RowTile& tile, int64_t first, int64_t n) {
    gated_tile(exec.cpu(), {.gate = s[0],
                            .up = s[1],
                            .quant = a.gate_up.quant,
                            .first_row = tile.first_row,
                            .rows = tile.rows,
                            .x = x.data() + first,
                            .tokens = n,
                            .out = a.out.ptr<float>(first) + tile.row,
                            .token_stride = a.out.strides[0],
                            .next = s[0].data.at(tile.first_row + tile.rows)});
  });
}

}  // namespace dsr::cpu
