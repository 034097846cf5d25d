#include "ops/moe.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "ops/ref/rows.h"
#include "ops/ref/weight_rows.h"

namespace dsr {
namespace {

using ref::Row;

constexpr float kDropped = -std::numeric_limits<float>::infinity();

Row score(const Row& logits, ScoringFunc f) {
  Row s(logits.size());
  if (f == ScoringFunc::kSigmoid) {
    for (size_t e = 0; e < s.size(); ++e) s[e] = 1.0f / (1.0f + std::exp(-logits[e]));
    return s;
  }
  const float max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (size_t e = 0; e < s.size(); ++e)
    sum += static_cast<double>(s[e] = std::exp(logits[e] - max));
  for (float& v : s) v = static_cast<float>(static_cast<double>(v) / sum);
  return s;
}

// The indices of the n largest values, largest first, the lower index first among equals.
std::vector<int32_t> largest(const Row& values, int64_t n) {
  std::vector<int32_t> ids(values.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
    return values[static_cast<size_t>(a)] > values[static_cast<size_t>(b)];
  });
  ids.resize(static_cast<size_t>(n));
  return ids;
}

float group_score(const float* c, int64_t n, GroupScore kind) {
  float best = kDropped, second = kDropped;
  for (int64_t i = 0; i < n; ++i) {
    if (c[i] > best) {
      second = best;
      best = c[i];
    } else if (c[i] > second) {
      second = c[i];
    }
  }
  return kind == GroupScore::kMax || n < 2 ? best : best + second;
}

void drop_groups(Row& c, const MoeRouteArgs& a) {
  const auto per_group = static_cast<int64_t>(c.size()) / a.n_group;
  Row scores;
  for (int64_t g = 0; g < a.n_group; ++g)
    scores.push_back(group_score(c.data() + g * per_group, per_group, a.group_score));
  const std::vector<int32_t> kept = largest(scores, a.topk_group);
  for (int64_t g = 0; g < a.n_group; ++g) {
    if (std::find(kept.begin(), kept.end(), g) != kept.end()) continue;
    std::fill_n(c.begin() + g * per_group, per_group, kDropped);
  }
}

}  // namespace

void ref::moe_route(Exec&, const MoeRouteArgs& a) {
  const int64_t K = a.expert_ids.shape[1];
  for (int64_t t = 0; t < a.logits.shape[0]; ++t) {
    const Row s = score(load_row(a.logits, t), a.scoring_func);
    Row c = s;
    if (a.correction_bias.rank() > 0) {
      const auto* bias = a.correction_bias.ptr<float>();
      for (size_t e = 0; e < c.size(); ++e) c[e] += bias[e];
    }
    if (a.n_group > 1) drop_groups(c, a);
    std::vector<int32_t> ids = largest(c, K);
    std::sort(ids.begin(), ids.end());
    double sum = 1e-20;
    for (const int32_t e : ids) sum += static_cast<double>(s[static_cast<size_t>(e)]);
    for (int64_t k = 0; k < K; ++k) {
      const int32_t e = ids[static_cast<size_t>(k)];
      float w = s[static_cast<size_t>(e)];
      if (a.norm_topk_prob) w = static_cast<float>(static_cast<double>(w) / sum);
      a.expert_ids.ptr<int32_t>(t)[k] = e;
      a.expert_weights.ptr<float>(t)[k] = w * a.routed_scaling_factor;
    }
  }
}

void ref::moe_gate(Exec& exec, const MoeGateArgs& a) {
  compose_moe_gate(exec, a, {.add_rms_norm = add_rms_norm, .linear = linear, .route = moe_route});
}

namespace {

struct Routed {
  int64_t token;
  float weight;
};

// silu(gate x) * (up x) of one expert for one token, rounded as an activation is stored.
Row expert_hidden(const Row& x, const std::vector<Row>& gate, const std::vector<Row>& up,
                  DType activation) {
  Row h(gate.size());
  const auto K = static_cast<int64_t>(x.size());
  for (size_t f = 0; f < h.size(); ++f) {
    const auto g = static_cast<float>(ref::dot(x.data(), gate[f].data(), K));
    const auto u = static_cast<float>(ref::dot(x.data(), up[f].data(), K));
    h[f] = ref::silu(g) * u;
  }
  std::vector<uint16_t> stored(h.size() * 2);  // enough for either type
  from_f32(activation, h.data(), stored.data(), static_cast<int64_t>(h.size()));
  to_f32(activation, stored.data(), h.data(), static_cast<int64_t>(h.size()));
  return h;
}

std::vector<Row> dequantize(const Weight& w, int64_t segment) {
  std::vector<Row> out;
  ref::for_each_row(Weight{{w.segments[static_cast<size_t>(segment)]}, w.quant},
                    [&](int64_t, const float* row) { out.emplace_back(row, row + w.columns()); });
  return out;
}

}  // namespace

void ref::moe_experts(Exec& exec, const MoeExpertsArgs& a) {
  const int64_t T = a.x.shape[0], D = a.x.shape[1], K = a.expert_ids.shape[1];
  const auto E = static_cast<int64_t>(a.down.segments.size());
  std::vector<std::vector<Routed>> wanted_by(static_cast<size_t>(E));
  for (int64_t t = 0; t < T; ++t)
    for (int64_t k = 0; k < K; ++k) {
      const int32_t e = a.expert_ids.ptr<int32_t>(t)[k];
      DSR_CHECK(e >= 0 && e < E, e);
      wanted_by[static_cast<size_t>(e)].push_back({t, a.expert_weights.ptr<float>(t)[k]});
    }

  std::vector<Row> sum(static_cast<size_t>(T), Row(static_cast<size_t>(D), 0.0f));
  for (int64_t e = 0; e < E; ++e) {
    const std::vector<Routed>& tokens = wanted_by[static_cast<size_t>(e)];
    if (tokens.empty()) continue;
    const std::vector<Row> gate = dequantize(a.gate_up, 2 * e);
    const std::vector<Row> up = dequantize(a.gate_up, 2 * e + 1);
    const std::vector<Row> down = dequantize(a.down, e);
    for (const Routed& r : tokens) {
      const Row h = expert_hidden(load_row(a.x, r.token), gate, up, exec.activation_dtype());
      Row& out = sum[static_cast<size_t>(r.token)];
      for (size_t d = 0; d < out.size(); ++d)
        out[d] += r.weight *
                  static_cast<float>(dot(h.data(), down[d].data(), static_cast<int64_t>(h.size())));
    }
  }
  for (int64_t t = 0; t < T; ++t) {
    Row& out = sum[static_cast<size_t>(t)];
    if (a.addend.rank() > 0) {
      const Row shared = load_row(a.addend, t);
      for (size_t d = 0; d < out.size(); ++d) out[d] += shared[d];
    }
    store_row(a.out, t, out);
  }
}

void ref::moe_with_shared(Exec& exec, const MoeWithSharedArgs& a) {
  compose_moe_with_shared(exec, a, {.swiglu = swiglu, .linear = linear, .experts = moe_experts});
}

}  // namespace dsr
