#include "ops/cpu/tiles.h"

namespace dsr::cpu {

void gated_tile(CpuContext& cpu, const GatedTile& a) {
  const InnerLoops& loops = inner_loops(cpu.level());
  float gate[kTileRows * kTileTokens], up[kTileRows * kTileTokens];
  for_each_token_part(a.tokens, [&](int64_t t0, int64_t n) {
    const auto run = [&](const WeightSegment& segment, float* out, const void* next) {
      dots(cpu, {.segment = segment,
                 .quant = a.quant,
                 .first_row = a.first_row,
                 .rows = a.rows,
                 .x = a.x + t0,
                 .tokens = n,
                 .out = out,
                 .token_stride = kTileRows,
                 .next = next});
    };
    run(a.gate, gate, a.up.data.at(a.first_row));
    run(a.up, up, a.next);
    for (int64_t t = 0; t < n; ++t)
      loops.silu_times(gate + t * kTileRows, up + t * kTileRows, a.rows,
                       a.out + (t0 + t) * a.token_stride);
  });
}

}  // namespace dsr::cpu
