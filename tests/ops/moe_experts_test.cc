#include "ops/moe.h"

#include "ops/moe_fixture.h"
#include "support/expect_error.h"

namespace dsr::test {
namespace {

class MoeExpertsTest : public MoeTest {};

TEST_P(MoeExpertsTest, MatchesTheFormula) {
  std::vector<Experts> cases = {{2, 256, 1408, 4, 2, DType::kBF16},  // V2-Lite's expert width
                                {1, 2048, 64, 8, 6, DType::kF8E4M3},
                                {129, 33, 17, 5, 3, DType::kF8E4M3, {16, 32}},
                                {3, 200, 130, 4, 4, DType::kF8E4M3},
                                {12, 256, 192, 9, 3, DType::kF8E4M3},  // more tokens: other kernels
                                {64, 128, 72, 6, 2, DType::kBF16},
                                {80, 128, 64, 70, 2, DType::kF8E4M3},
                                // A block of a kernel has units of several experts.
                                {64, 2048, 128, 24, 6, DType::kF8E4M3},
                                {7, 3072, 192, 24, 4, DType::kBF16},
                                {5, 16384, 16, 3, 2, DType::kF8E4M3},  // too wide for the fastest
                                // Scales that are powers of two.
                                {1, 512, 128, 6, 3, DType::kF8E4M3, {128, 128}, DType::kF8E8M0},
                                {7, 512, 192, 6, 3, DType::kF8E4M3, {128, 128}, DType::kF8E8M0},
                                {40, 256, 128, 9, 3, DType::kF8E4M3, {128, 128}, DType::kF8E8M0},
                                {90, 200, 130, 5, 2, DType::kF8E4M3, {64, 128}, DType::kF8E8M0},
                                {3, 96, 40, 5, 2, DType::kF8E4M3, {16, 32}, DType::kF8E8M0},
                                {1, 1, 1, 1, 1, DType::kF32}};
  if (on_cuda())  // the GEMMs' widest tiles
    cases.insert(cases.end(), {{260, 192, 192, 4, 2, DType::kF8E4M3},
                               {260, 320, 64, 3, 2, DType::kF8E4M3, {8, 128}},
                               {260, 96, 224, 4, 2, DType::kBF16}});
  for (const Experts& c : cases) {
    // Real widths are for kernels; the definition takes seconds there.
    if (exec.backend() != Backend::kCuda && c.D * c.F * c.E > 1 << 21) continue;
    set_up(c);
    Result want = formula();
    const Tensor out = empty_activation({c.T, c.D}), wide = make.empty(DType::kF32, out.shape);
    ops::moe_experts(exec, args(out));
    expect_close(out, want, c);
    ops::moe_experts(exec, args(wide));
    expect_close(wide, want, c);
    const Tensor addend = random_activation({c.T, c.D});
    const std::vector<double> shared = values_of(addend);
    for (size_t i = 0; i < shared.size(); ++i) want.out.values[i] += shared[i];
    ops::moe_experts(exec, args(out, addend));
    expect_close(out, want, c);
  }
}

// V3's width, and as many experts as it has or a kernel knows; five stand for all of them.
TEST_P(MoeExpertsTest, ManyExpertsMatchTheFormula) {
  constexpr int64_t kDifferent = 5, kMostTokens = 64;
  // Real widths are for kernels; the definition takes seconds there.
  const int64_t D = on_cuda() ? 7168 : 96, F = on_cuda() ? 128 : 24;
  set_up({kMostTokens, D, F, kDifferent, 1, DType::kF8E4M3});
  const Tensor all_x = x;
  const Weight few_gate_up = gate_up, few_down = down;
  std::vector<Result> by_expert;  // of every token
  ids = make.i32({kMostTokens, 1}, std::vector<int32_t>(kMostTokens, 0));
  weights = make.fill(DType::kF32, {kMostTokens, 1}, [] { return 1.0f; });
  for (size_t e = 0; e < kDifferent; ++e) {
    gate_up.segments = {few_gate_up.segments[2 * e], few_gate_up.segments[2 * e + 1]};
    down.segments = {few_down.segments[e]};
    by_expert.push_back(formula());
  }
  for (const auto& [E, K] : {std::pair<int64_t, int64_t>{256, 8}, {1024, 16}}) {
    gate_up = few_gate_up;
    down = few_down;
    let_stand_for(E);
    for (const int64_t T : {1, 2, 9, 64}) {
      const Experts c{T, D, F, E, K, DType::kF8E4M3};
      x = rows(all_x, 0, T);
      choose(c);
      Result want{Matrix(T, D), Matrix(T, D)};
      for (int64_t t = 0; t < T; ++t)
        for (int64_t k = 0; k < K; ++k) {
          const Result& r = by_expert[static_cast<size_t>(ids.ptr<int32_t>(t)[k] % kDifferent)];
          const auto w = static_cast<double>(weights.ptr<float>(t)[k]);
          for (int64_t d = 0; d < D; ++d) {
            want.out(t, d) += w * r.out(t, d);
            want.edges(t, d) += w * r.edges(t, d);
          }
        }
      const Tensor out = make.empty(DType::kF32, {T, D});
      ops::moe_experts(exec, args(out));
      expect_close(out, want, c);
    }
  }
}

TEST_P(MoeExpertsTest, WeightsOfOtherExpertsAreNotRead) {
  set_up({3, 64, 32, 6, 2, DType::kBF16});
  for (int64_t i = 0; i < 6; ++i) ids.ptr<int32_t>()[i] = i % 2 == 0 ? 1 : 4;
  const Tensor want = empty_activation({3, 64}), out = empty_activation({3, 64});
  ops::moe_experts(exec, args(want));
  for (const size_t e : {0, 2, 3, 5}) {
    gate_up.segments[2 * e].data = make.empty(DType::kBF16, {32, 64});
    gate_up.segments[2 * e + 1].data = make.empty(DType::kBF16, {32, 64});
    down.segments[e].data = make.empty(DType::kBF16, {64, 32});
  }
  ops::moe_experts(exec, args(out));
  EXPECT_TRUE(same_bits(out, want));
}

// Three experts with equal weights, weighed 2^27, 1, -2^27. In float32 and ascending order the one
// is lost in the first sum and the result is 0; in any other order it is not.
TEST_P(MoeExpertsTest, SumsInAscendingExpertIdThenTheAddend) {
  set_up({1, 16, 8, 3, 3, DType::kF32});
  for (const size_t e : {1, 2}) {
    gate_up.segments[2 * e] = gate_up.segments[0];
    gate_up.segments[2 * e + 1] = gate_up.segments[1];
    down.segments[e] = down.segments[0];
  }
  weights = make.f32({1, 3}, {0x1p27f, 1, -0x1p27f});
  const Tensor out = make.empty(DType::kF32, {1, 16});
  ops::moe_experts(exec, args(out));
  EXPECT_TRUE(close(out, std::vector<double>(16, 0.0), {}));
  const Tensor addend = random_activation({1, 16});
  ops::moe_experts(exec, args(out, addend));
  EXPECT_TRUE(close(out, values_of(addend), {}));
}

// Fused or not, the same bits: every number of tokens that some kernel is for, widths of V2-Lite
// and ragged ones, types that the fused kernels take, mix and leave alone.
TEST_P(MoeExpertsTest, WithSharedIsItsComposition) {
  struct Shared {
    Experts routed;
    int64_t F;
    DType dtype;
  };
  const Shared cases[] = {{{1, 2048, 1408, 8, 6, DType::kF8E4M3}, 2816, DType::kF8E4M3},
                          {{3, 256, 1408, 4, 2, DType::kBF16}, 2816, DType::kBF16},
                          {{8, 2048, 352, 8, 6, DType::kF8E4M3}, 704, DType::kF8E4M3},
                          {{2, 2048, 176, 8, 6, DType::kBF16}, 352, DType::kBF16},
                          {{4, 5120, 64, 5, 3, DType::kF8E4M3}, 128, DType::kF8E4M3},
                          {{1, 384, 256, 8, 6, DType::kF8E4M3}, 512, DType::kF8E4M3},
                          {{7, 320, 200, 24, 6, DType::kF8E4M3}, 456, DType::kF8E4M3},
                          {{9, 320, 192, 6, 3, DType::kF8E4M3}, 448, DType::kF8E4M3},
                          {{33, 128, 72, 6, 2, DType::kBF16}, 40, DType::kBF16},
                          {{64, 192, 64, 5, 2, DType::kF8E4M3}, 128, DType::kF8E4M3},
                          {{70, 128, 64, 5, 2, DType::kF8E4M3}, 64, DType::kF8E4M3},
                          {{2, 128, 64, 5, 2, DType::kF8E4M3}, 64, DType::kBF16},
                          {{5, 33, 17, 5, 3, DType::kF32}, 9, DType::kF32}};
  for (const Shared& c : cases) {
    const int64_t T = c.routed.T, D = c.routed.D;
    // Real widths are for kernels: elsewhere they take minutes.
    if (exec.backend() != Backend::kCuda && D * c.F > 1 << 18) continue;
    set_up(c.routed);
    const Weight shared_gate_up = make.weight(c.dtype, {c.F, c.F}, D, 0.05f, {128, 128});
    const Weight shared_down = make.weight(c.dtype, {D}, c.F, 0.05f, {128, 128});
    const Tensor hidden = empty_activation({T, c.F}), shared = empty_activation({T, D});
    ops::swiglu(exec, {.out = hidden, .x = x, .gate_up = shared_gate_up});
    ops::linear(exec, {.out = shared, .x = hidden, .w = shared_down, .bias = {}});
    const Tensor want = empty_activation({T, D}), out = empty_activation({T, D});
    ops::moe_experts(exec, args(want, shared));
    ops::moe_with_shared(
        exec, {.routed = args(out), .shared_gate_up = shared_gate_up, .shared_down = shared_down});
    EXPECT_TRUE(same_bits(out, want)) << "T=" << T << " D=" << D;
  }
}

TEST_P(MoeExpertsTest, ATokenDoesNotDependOnItsNeighbours) {
  for (const auto& [D, E] : {std::pair<int64_t, int64_t>{96, 4}, {128, 4}, {512, 40}}) {
    set_up({64, D, 64, E, 2, DType::kF8E4M3});
    const Tensor all = empty_activation({64, D});
    const MoeExpertsArgs whole = args(all);
    ops::moe_experts(exec, whole);
    for (const int64_t n : {1, 5, 8, 15, 16, 31, 33}) {
      for (int64_t first = 0; first + n <= 64; first += 13) {
        MoeExpertsArgs some = whole;
        some.out = empty_activation({n, D});
        some.x = rows(x, first, n);
        some.expert_ids = rows(ids, first, n);
        some.expert_weights = rows(weights, first, n);
        ops::moe_experts(exec, some);
        EXPECT_TRUE(same_bits(some.out, rows(all, first, n))) << "D=" << D << " n=" << n;
      }
    }
  }
}

TEST_P(MoeExpertsTest, NoTokensAndWrongArguments) {
  set_up({1, 8, 4, 2, 1, DType::kBF16});
  const Tensor out = empty_activation({1, 8});
  MoeExpertsArgs a = args(out);
  a.expert_ids = make.i32({1, 1}, {2});
  if (!on_cuda()) {  // a kernel cannot refuse
    EXPECT_NE(error_of([&] { ops::moe_experts(exec, a); }, ErrorKind::kInternal).find("with 2"),
              std::string::npos);
  }
  down = make.weight(DType::kBF16, {8, 9}, 4, 1);
  EXPECT_EQ(error_of([&] { ops::moe_experts(exec, args(out)); }, ErrorKind::kInternal),
            "moe_experts: down is [17, 4] in 2 segments, expected [16, 4]");
  set_up({0, 8, 4, 2, 1, DType::kBF16});
  ops::moe_experts(exec, args(empty_activation({0, 8})));
}

INSTANTIATE_TEST_SUITE_P(Backends, MoeExpertsTest, testing::ValuesIn(backends_under_test()),
                         backend_name);

}  // namespace
}  // namespace dsr::test
