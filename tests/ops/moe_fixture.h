// Experts with random weights, who is chosen, and what moe_experts has to give back.
#pragma once

#include <algorithm>
#include <map>

#include "ops/formulas.h"
#include "ops/moe.h"
#include "support/backends_under_test.h"

namespace dsr::test {

struct Experts {
  int64_t T, D, F, E, K;
  DType dtype;
  QuantScheme quant = {128, 128};
  DType scales = DType::kF32;
};

class MoeTest : public OpTest {
 protected:
  void set_up(const Experts& c) {
    const float by_d = 1 / std::sqrt(static_cast<float>(c.D));
    const float by_f = 1 / std::sqrt(static_cast<float>(c.F));
    gate_up = make.weight(c.dtype, std::vector<int64_t>(static_cast<size_t>(2 * c.E), c.F), c.D,
                          by_d, c.quant, c.scales);
    down = make.weight(c.dtype, std::vector<int64_t>(static_cast<size_t>(c.E), c.D), c.F, by_f,
                       c.quant, c.scales);
    x = random_activation({c.T, c.D});
    choose(c);
  }

  // Expert e of so many is expert e % n of the n that were made: where what is tested is who gets
  // which, not gigabytes of numbers.
  void let_stand_for(int64_t n_experts) {
    const std::vector<WeightSegment> gate_up_made = gate_up.segments, down_made = down.segments;
    gate_up.segments.clear();
    down.segments.clear();
    for (size_t e = 0; e < static_cast<size_t>(n_experts); ++e) {
      const size_t i = e % down_made.size();
      gate_up.segments.push_back(gate_up_made[2 * i]);
      gate_up.segments.push_back(gate_up_made[2 * i + 1]);
      down.segments.push_back(down_made[i]);
    }
  }

  // K different experts for every token, ascending.
  void choose(const Experts& c) {
    std::vector<int32_t> chosen;
    for (int64_t t = 0; t < c.T; ++t) {
      std::vector<int32_t> row;
      while (static_cast<int64_t>(row.size()) < c.K) {
        const int32_t e = make.below(c.E);
        if (std::find(row.begin(), row.end(), e) == row.end()) row.push_back(e);
      }
      std::sort(row.begin(), row.end());
      chosen.insert(chosen.end(), row.begin(), row.end());
    }
    ids = make.i32({c.T, c.K}, chosen);
    weights = make.fill(DType::kF32, {c.T, c.K}, [&] { return make.random().next_uniform(); });
  }

  MoeExpertsArgs args(const Tensor& out, const Tensor& addend = {}) const {
    return {.out = out,
            .x = x,
            .expert_ids = ids,
            .expert_weights = weights,
            .gate_up = gate_up,
            .down = down,
            .addend = addend};
  }

  struct Result {
    Matrix out;
    // By how much an element may be off because a product lies so near to the edge between two bf16
    // values that it may be stored as either.
    Matrix edges;
  };
  Result formula() const {
    const Matrix xs(x), w(weights);
    const int64_t D = xs.columns, F = down.columns();
    Result r{Matrix(xs.rows, D), Matrix(xs.rows, D)};
    std::map<const void*, Matrix> known;  // segments that stand for several experts, once
    const auto numbers = [&](const Weight& of, size_t i) -> const Matrix& {
      const WeightSegment& s = of.segments[i];
      const auto at = known.find(s.data.data);
      return at != known.end() ? at->second
                               : known.emplace(s.data.data, dense({{s}, of.quant})).first->second;
    };
    for (int64_t t = 0; t < xs.rows; ++t) {
      for (int64_t k = 0; k < w.columns; ++k) {
        const auto e = static_cast<size_t>(ids.ptr<int32_t>(t)[k]);
        const Matrix &gate = numbers(gate_up, 2 * e), &up = numbers(gate_up, 2 * e + 1),
                     &dn = numbers(down, e);
        for (int64_t f = 0; f < F; ++f) {
          double g = 0, u = 0;
          for (int64_t d = 0; d < D; ++d) {
            g += xs(t, d) * gate(f, d);
            u += xs(t, d) * up(f, d);
          }
          const double h = silu(g) * u;
          // What both sums err by, their totals being of the order of 4, and the product for it.
          const double sums = sum_of(D, DType::kF32, 4).abs;
          const double error = 2 * sums * (1 + std::abs(g)) * (1 + std::abs(u));
          const double by = activation() == DType::kBF16
                                ? stored(DType::kBF16, h + error) - stored(DType::kBF16, h - error)
                                : 0;
          const double kept = stored(activation(), h);
          for (int64_t d = 0; d < D; ++d) r.out(t, d) += w(t, k) * kept * dn(d, f);
          if (by == 0) continue;
          for (int64_t d = 0; d < D; ++d) r.edges(t, d) += std::abs(w(t, k) * by * dn(d, f));
        }
      }
    }
    return r;
  }

  // Sums over D and F; per expert three roundings (the product, its weighing, the addition) of
  // values below 16.
  Tolerance tolerance(const Experts& c, DType out) const {
    Tolerance tol = sum_of(c.D + c.F, out, 16);
    tol.abs += static_cast<double>(c.K) * 3 * 16 * 0x1p-24;
    return tol;
  }
  void expect_close(const Tensor& got, const Result& want, const Experts& c) const {
    const std::vector<double> values = values_of(got);
    std::vector<double> nearest = want.out.values;
    for (size_t i = 0; i < nearest.size(); ++i) {
      const double by = want.edges.values[i];
      if (std::isfinite(values[i])) nearest[i] += std::clamp(values[i] - nearest[i], -by, by);
    }
    EXPECT_TRUE(close(got, nearest, tolerance(c, got.dtype)))
        << "T=" << c.T << " D=" << c.D << " E=" << c.E;
  }

  Weight gate_up, down;
  Tensor x, ids, weights;
};

}  // namespace dsr::test
