#include "ops/cpu/tiles.h"

#include "ops/ref/rows.h"

namespace dsr::cpu {

void gated_tile(CpuContext& cpu, const GatedTile& a) {
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
      for (int64_t r = 0; r < a.rows; ++r) {
        const int64_t i = t * kTileRows + r;
        a.out[(t0 + t) * a.token_stride + r] = ref::silu(gate[i]) * up[i];
      }
  });
}

}  // namespace dsr::cpu
