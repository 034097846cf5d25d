#include "ops/cpu/tiles.h"

namespace dsr::cpu {

void gated_tile(CpuContext& cpu, const GatedTile& a) {
  const auto run = [&](const WeightSegment& segment, bool gates, const void* next) {
    dots(cpu, {.segment = segment,
               .quant = a.quant,
               .first_row = a.first_row,
               .rows = a.rows,
               .x = a.x,
               .tokens = a.tokens,
               .out = a.out,
               .token_stride = a.token_stride,
               .gates = gates,
               .next = next});
  };
  run(a.gate, false, a.up.data.at(a.first_row));
  run(a.up, true, a.next);
}

}  // namespace dsr::cpu
