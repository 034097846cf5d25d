#include "ops/moe.h"
#include "support/backends_under_test.h"
#include "support/expect_error.h"

namespace dsr::test {
namespace {

struct Gate {
  const char* name;
  int64_t T, D;
  std::vector<int64_t> rows;  // of the router's segments
  DType dtype;
  int64_t K;
  ScoringFunc func = ScoringFunc::kSoftmax;
  GroupScore group = GroupScore::kMax;
  int64_t n_group = 1, topk_group = 1;
  bool bias = false;
};

constexpr ScoringFunc kSigmoid = ScoringFunc::kSigmoid;
constexpr GroupScore kTop2Sum = GroupScore::kTop2Sum;

std::vector<Gate> gates() {
  constexpr DType kBf16 = DType::kBF16, kF32 = DType::kF32;
  std::vector<Gate> out;
  for (const int64_t T : {1, 2, 8, 64, 65}) {
    out.push_back({"V2-Lite", T, 2048, {64}, kBf16, 6});
    out.push_back({"V2", T, 5120, {160}, kBf16, 6, {}, {}, 8, 3});
    out.push_back({"V3", T, 7168, {256}, kBf16, 8, kSigmoid, kTop2Sum, 8, 4, true});
  }
  for (const int64_t T : {1, 3}) {
    out.push_back({"a last unit of 4 rows", T, 96, {20}, kBf16, 5});
    out.push_back({"one unit", T, 160, {7}, kBf16, 7, kSigmoid, kTop2Sum, 1, 1, true});
    out.push_back({"segments", T, 128, {24, 40, 8}, kBf16, 4});
    out.push_back(
        {"more units than a cluster has blocks", T, 64, {4, 4, 4, 4, 4, 4, 4, 4, 4}, kBf16, 4});
    out.push_back({"f32", T, 256, {64}, kF32, 6});
    out.push_back({"fp8", T, 256, {64}, DType::kF8E4M3, 6});
    out.push_back({"more experts", T, 64, {300}, kBf16, 6, kSigmoid, kTop2Sum, 10, 4, true});
    out.push_back({"a wide row", T, 8200, {32}, kBf16, 6});
    out.push_back({"no chunks of 16 bytes", T, 33, {16}, kBf16, 2});
  }
  return out;
}

class MoeGateTest : public OpTest {
 protected:
  void set_up(const Gate& g) {
    int64_t E = 0;
    for (const int64_t n : g.rows) E += n;
    x = random_activation({g.T, g.D});
    residual = random_activation({g.T, g.D});
    weight = make.normal(DType::kF32, {g.D}, 0.2f, 1);
    gate = make.weight(g.dtype, g.rows, g.D, 2 / std::sqrt(static_cast<float>(g.D)), {128, 128});
    if (g.dtype == DType::kBF16 && g.rows.size() == 1 && E > 8) {
      // Two experts that every token likes as much: the lower index goes first.
      const auto row_bytes = static_cast<size_t>(2 * g.D);
      std::memcpy(gate.segments[0].data.at(8), gate.segments[0].data.at(3), row_bytes);
    }
    bias = g.bias ? make.normal(DType::kF32, {E}, 0.1f) : Tensor{};
  }

  struct Result {
    Tensor out, residual, ids, weights;
  };
  Result empty(const Gate& g, int64_t T) {
    return {.out = empty_activation({T, g.D}),
            .residual = make.empty(activation(), {T, g.D}),
            .ids = make.empty(DType::kI32, {T, g.K}),
            .weights = make.empty(DType::kF32, {T, g.K})};
  }
  MoeRouteArgs route(const Gate& g, const Result& r, const Tensor& logits) const {
    return {.expert_ids = r.ids,
            .expert_weights = r.weights,
            .logits = logits,
            .correction_bias = bias,
            .scoring_func = g.func,
            .group_score = g.group,
            .n_group = g.n_group,
            .topk_group = g.topk_group,
            .norm_topk_prob = g.bias,
            .routed_scaling_factor = 2.5f};
  }
  // Tokens [first, first + n).
  Result run(const Gate& g, int64_t first, int64_t n) {
    Result r = empty(g, n);
    r.residual = make.copy(rows(residual, first, n));
    ops::moe_gate(exec, {.norm = {.out = r.out,
                                  .residual = r.residual,
                                  .x = rows(x, first, n),
                                  .weight = weight,
                                  .eps = 1e-6f},
                         .gate = gate,
                         .route = route(g, r, {})});
    return r;
  }
  Result composed(const Gate& g) {
    Result r = empty(g, g.T);
    r.residual = make.copy(residual);
    const Tensor logits = make.empty(DType::kF32, {g.T, gate.rows()});
    ops::add_rms_norm(
        exec, {.out = r.out, .residual = r.residual, .x = x, .weight = weight, .eps = 1e-6f});
    ops::linear(exec, {.out = logits, .x = r.out, .w = gate, .bias = {}});
    ops::moe_route(exec, route(g, r, logits));
    return r;
  }
  static void expect_same(const Result& got, const Result& want, const std::string& what) {
    EXPECT_TRUE(same_bits(got.residual, want.residual)) << what;
    EXPECT_TRUE(same_bits(got.out, want.out)) << what;
    EXPECT_TRUE(same_bits(got.ids, want.ids)) << what;
    EXPECT_TRUE(same_bits(got.weights, want.weights)) << what;
  }

  Tensor x, residual, weight, bias;
  Weight gate;
};

TEST_P(MoeGateTest, IsItsComposition) {
  for (const Gate& g : gates()) {
    // Real widths are for kernels; elsewhere the op is its composition.
    if (!on_cuda() && g.T * g.D * g.rows.front() > 1 << 20) continue;
    set_up(g);
    expect_same(run(g, 0, g.T), composed(g), str(g.name, " T=", g.T));
  }
}

TEST_P(MoeGateTest, ATokenDoesNotDependOnItsNeighbours) {
  for (Gate g : {Gate{"V2-Lite", 64, 2048, {64}, DType::kBF16, 6},
                 Gate{"V3", 64, 7168, {256}, DType::kBF16, 8, kSigmoid, kTop2Sum, 8, 4, true}}) {
    if (!on_cuda()) g.T = 3, g.D = 64;
    set_up(g);
    const Result all = run(g, 0, g.T);
    for (const int64_t n : {1, 2, 5, 16, 33})
      for (int64_t first = 0; first + n <= g.T; first += 13)
        expect_same(run(g, first, n),
                    {.out = rows(all.out, first, n),
                     .residual = rows(all.residual, first, n),
                     .ids = rows(all.ids, first, n),
                     .weights = rows(all.weights, first, n)},
                    str(g.name, " n=", n, " first=", first));
  }
}

TEST_P(MoeGateTest, OutMayBeXAndRowsMayBeStrided) {
  for (const Gate& g :
       {Gate{"alone", 5, 256, {64}, DType::kBF16, 6},
        Gate{"in groups", 3, 128, {96}, DType::kBF16, 8, kSigmoid, kTop2Sum, 12, 4, true}}) {
    set_up(g);
    const Result want = composed(g);
    Result r = empty(g, g.T);
    r.out = make.copy(x);
    r.residual = make.strided(random_activation({g.T, g.D + 16}), 8, g.D);
    for (int64_t t = 0; t < g.T; ++t)
      std::memcpy(r.residual.at(t), residual.at(t),
                  static_cast<size_t>(g.D * size_bytes(activation())));
    ops::moe_gate(
        exec,
        {.norm = {.out = r.out, .residual = r.residual, .x = r.out, .weight = weight, .eps = 1e-6f},
         .gate = gate,
         .route = route(g, r, {})});
    expect_same(r, want, g.name);
  }
}

TEST_P(MoeGateTest, NoTokensAndWrongArguments) {
  const Gate g{"none", 0, 64, {8}, DType::kBF16, 2};
  set_up(g);
  run(g, 0, 0);
  set_up({"one", 1, 64, {8}, DType::kBF16, 2});
  bias = make.f32({1}, {0});
  EXPECT_EQ(error_of([&] { run(g, 0, 1); }, ErrorKind::kInternal),
            "moe_gate: correction_bias is f32 [1], expected f32 [E=8]");
  bias = {};
  gate = make.weight(DType::kBF16, {8}, 63, 1);
  EXPECT_EQ(error_of([&] { run(g, 0, 1); }, ErrorKind::kInternal),
            "moe_gate: gate is [8, 63] in 1 segments, expected [E=8, D=64]");
}

INSTANTIATE_TEST_SUITE_P(Backends, MoeGateTest, testing::ValuesIn(backends_under_test()),
                         backend_name);

}  // namespace
}  // namespace dsr::test
