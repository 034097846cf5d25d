// Mixture of experts on the cpu: an expert's rows are read once a step, for all tokens that want
// it.
#include "ops/moe.h"

#include <algorithm>

#include "ops/cpu/tiles.h"

namespace dsr::cpu {
namespace {

// The tokens of each expert: those of expert e are [begin[e], begin[e + 1]).
struct Assignment {
  std::vector<int64_t> begin, token;
  std::vector<float> weight;
  std::vector<int64_t> wanted;  // experts with tokens, ascending
};

Assignment assign(const MoeExpertsArgs& a, int64_t E) {
  const int64_t T = a.expert_ids.shape[0], K = a.expert_ids.shape[1];
  Assignment out;
  out.begin.assign(static_cast<size_t>(E + 1), 0);
  for (int64_t t = 0; t < T; ++t)
    for (int64_t k = 0; k < K; ++k) {
      const int32_t e = a.expert_ids.ptr<int32_t>(t)[k];
      DSR_CHECK(e >= 0 && e < E, e);
      ++out.begin[static_cast<size_t>(e + 1)];
    }
  for (size_t e = 0; e < static_cast<size_t>(E); ++e) {
    if (out.begin[e + 1] > 0) out.wanted.push_back(static_cast<int64_t>(e));
    out.begin[e + 1] += out.begin[e];
  }
  std::vector<int64_t> next(out.begin.begin(), out.begin.end() - 1);
  out.token.resize(static_cast<size_t>(T * K));
  out.weight.resize(out.token.size());
  for (int64_t t = 0; t < T; ++t)
    for (int64_t k = 0; k < K; ++k) {
      const auto e = static_cast<size_t>(a.expert_ids.ptr<int32_t>(t)[k]);
      const auto at = static_cast<size_t>(next[e]++);
      out.token[at] = t;
      out.weight[at] = a.expert_weights.ptr<float>(t)[k];
    }
  return out;
}

constexpr int64_t kRead = 8;  // tokens: what it takes to read a unit's weights

// What the parts of all wanted experts' rows cost up to each, counted in tokens.
std::vector<int64_t> part_costs(const Assignment& a, int64_t units) {
  std::vector<int64_t> out = {0};
  for (const int64_t e : a.wanted) {
    const auto i = static_cast<size_t>(e);
    for (int64_t u = 0; u < units; ++u)
      out.push_back(out.back() + kRead + a.begin[i + 1] - a.begin[i]);
  }
  return out;
}

// The first unit that begins at `cost` or behind it.
int64_t first_from(const std::vector<int64_t>& costs, int64_t cost) {
  return std::lower_bound(costs.begin(), costs.end(), cost) - costs.begin();
}

}  // namespace

void moe_route(Exec& exec, const MoeRouteArgs& a) {
  const int64_t T = a.logits.shape[0];
  exec.cpu().parallel(T, 8, [&](int64_t begin, int64_t end) {
    if (begin == end) return;
    MoeRouteArgs part = a;
    part.logits = rows(a.logits, begin, end - begin);
    part.expert_ids = rows(a.expert_ids, begin, end - begin);
    part.expert_weights = rows(a.expert_weights, begin, end - begin);
    ref::moe_route(exec, part);
  });
}

void moe_gate(Exec& exec, const MoeGateArgs& a) {
  compose_moe_gate(exec, a, {.add_rms_norm = add_rms_norm, .linear = linear, .route = moe_route});
}

void moe_experts(Exec& exec, const MoeExpertsArgs& a) {
  CpuContext& cpu = exec.cpu();
  const int64_t T = a.x.shape[0], D = a.x.shape[1], F = a.down.columns();
  const Arena::Scope scope(exec.scratch());
  const Tensor hidden = exec.scratch().tensor(DType::kF32, {T * a.expert_ids.shape[1], F});
  if (exec.dry_run()) return;
  const Assignment tokens = assign(a, static_cast<int64_t>(a.down.segments.size()));
  const auto n_routed = static_cast<int64_t>(tokens.token.size());
  const int64_t n_wanted = std::ssize(tokens.wanted);
  std::vector<const float*> x(tokens.token.size()), h(tokens.token.size());
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = a.x.ptr<float>(tokens.token[i]);
    h[i] = hidden.ptr<float>(static_cast<int64_t>(i));
  }
  const auto first_of = [&](int64_t e) { return tokens.begin[static_cast<size_t>(e)]; };

  // hidden = silu(gate x) * (up x), through the wanted experts
  const int64_t per_expert = ceil_div(n_routed, n_wanted);
  const int64_t together = units_to_take(per_expert), units = ceil_div(units_of(F), together);
  const std::vector<int64_t> cost = part_costs(tokens, units);
  const auto gate_up = [&](int64_t from, int64_t to) {
    const int64_t begin = first_from(cost, from), end = first_from(cost, to);
    for (int64_t i = begin / units; i * units < end; ++i) {
      const int64_t e = tokens.wanted[static_cast<size_t>(i)], first = first_of(e);
      const auto gate = static_cast<size_t>(2 * e);
      const auto e_after = static_cast<size_t>(i + 1 < n_wanted ? i + 1 : 0);
      const auto run = [&](int64_t row, int64_t n) {
        const bool goes_on = row + n < F;
        const auto next = goes_on ? gate : static_cast<size_t>(2 * tokens.wanted[e_after]);
        gated_tile(cpu, {.gate = a.gate_up.segments[gate],
                         .up = a.gate_up.segments[gate + 1],
                         .quant = a.gate_up.quant,
                         .first_row = row,
                         .rows = n,
                         .x = x.data() + first,
                         .tokens = first_of(e + 1) - first,
                         .out = hidden.ptr<float>(first) + row,
                         .token_stride = F,
                         .next = a.gate_up.segments[next].data.at(goes_on ? row + n : 0)});
      };
      for_each_run(std::max<int64_t>(0, begin - i * units) * together,
                   std::min(units, end - i * units) * together, F, run);
    }
  };
  cpu.parallel(cost.back(), grain(kUnitRows * together * 2 * D), gate_up, kRead + per_expert);

  // out = sum of weight * down hidden: some columns of `out` at a time, through the experts in
  // ascending order.
  const auto down = [&](int64_t begin, int64_t end) {
    const int64_t first_column = begin * kUnitRows, last_column = std::min(D, end * kUnitRows);
    for (int64_t t = 0; t < T; ++t)
      std::fill(a.out.ptr<float>(t) + first_column, a.out.ptr<float>(t) + last_column, 0.0f);
    float product[kTileRows * kTileTokens];
    const auto add_part = [&](int64_t e, const RowTile& tile, int64_t first, int64_t n,
                              const void* next) {
      dots(cpu, {.segment = *tile.segment,
                 .quant = a.down.quant,
                 .first_row = tile.row,
                 .rows = tile.rows,
                 .x = h.data() + first_of(e) + first,
                 .tokens = n,
                 .out = product,
                 .token_stride = kTileRows,
                 .next = next});
      for (int64_t i = 0; i < n; ++i) {
        const auto at = static_cast<size_t>(first_of(e) + first + i);
        float* out = a.out.ptr<float>(tokens.token[at]) + tile.row;
        for (int64_t r = 0; r < tile.rows; ++r)
          out[r] += tokens.weight[at] * product[i * kTileRows + r];
      }
    };
    for (int64_t i = 0; i < n_wanted; ++i) {
      const int64_t e = tokens.wanted[static_cast<size_t>(i)];
      const int64_t e_after = tokens.wanted[static_cast<size_t>(std::min(i + 1, n_wanted - 1))];
      for_each_run(begin, end, D, [&](int64_t row, int64_t rows) {
        const RowTile tile{&a.down.segments[static_cast<size_t>(e)], row, row, rows};
        const bool goes_on = row + rows < last_column;
        const Tensor& next = a.down.segments[static_cast<size_t>(goes_on ? e : e_after)].data;
        for_each_token_part(first_of(e + 1) - first_of(e), [&](int64_t first, int64_t n) {
          add_part(e, tile, first, n, next.at(goes_on ? row + rows : first_column));
        });
      });
    }
    if (a.addend.rank() == 0) return;
    for (int64_t t = 0; t < T; ++t)
      for (int64_t d = first_column; d < last_column; ++d)
        a.out.ptr<float>(t)[d] += a.addend.ptr<float>(t)[d];
  };
  cpu.parallel(units_of(D), grain(n_routed * kUnitRows * F), down, together);
}

void moe_with_shared(Exec& exec, const MoeWithSharedArgs& a) {
  compose_moe_with_shared(exec, a, {.swiglu = swiglu, .linear = linear, .experts = moe_experts});
}

}  // namespace dsr::cpu
