// Rows of op_bench: linears and swiglu, experts and their router.
#include <algorithm>

#include "base/rng.h"
#include "bench/op_bench.h"
#include "ops/linear.h"
#include "ops/moe.h"

namespace dsr::test {
namespace {

// --- linear and swiglu --------------------------------------------------------------------------

struct Dense {
  const char* model;
  std::vector<int64_t> rows;
  int64_t K;
  DType dtype;
  bool swiglu = false;
};

std::vector<Dense> dense_shapes() {
  constexpr DType kFp8 = DType::kF8E4M3, kBf16 = DType::kBF16;
  return {{"v2-lite", {3072, 576}, 2048, kFp8},
          {"v2-lite", {2048}, 2048, kFp8},
          {"v2-lite", {10944, 10944}, 2048, kFp8, true},
          {"v2-lite", {2048}, 10944, kFp8},
          {"v2-lite", {2816, 2816}, 2048, kFp8, true},
          {"v2-lite", {2048}, 2816, kFp8},
          {"v2-lite", {64}, 2048, kBf16},
          {"v2-lite", {102400}, 2048, kBf16},
          {"v2-lite", {3072, 576}, 2048, kBf16},
          {"v3", {1536, 576}, 7168, kFp8},
          {"v3", {24576}, 1536, kFp8},
          {"v3", {7168}, 16384, kFp8},
          {"v3", {18432, 18432}, 7168, kFp8, true},
          {"v3", {7168}, 18432, kFp8},
          {"v3", {2048, 2048}, 7168, kFp8, true},
          {"v3", {7168}, 2048, kFp8},
          {"v3", {129280}, 7168, kBf16},
          {"7b", {4096, 4096, 4096}, 4096, kBf16},
          {"7b", {4096}, 4096, kBf16},
          {"7b", {11008, 11008}, 4096, kBf16, true},
          {"7b", {4096}, 11008, kBf16},
          {"67b", {8192, 1024, 1024}, 8192, kFp8},
          {"67b", {8192}, 8192, kFp8},
          {"67b", {22016, 22016}, 8192, kFp8, true},
          {"67b", {8192}, 22016, kFp8}};
}

void run_dense(Bench& bench, const Dense& d, int64_t T) {
  int64_t N = 0;
  for (const int64_t n : d.rows) N += n;
  const auto elements = static_cast<double>(N) * static_cast<double>(d.K);
  const Row row{.op = d.swiglu ? "swiglu" : "linear",
                .model = d.model,
                .shape = std::to_string(N) + "x" + std::to_string(d.K),
                .dtype = d.dtype,
                .T = T,
                .bytes = elements * static_cast<double>(size_bytes(d.dtype)),
                .flop = 2 * elements * static_cast<double>(T)};
  if (!bench.wanted(row)) return;
  bench.rewind();
  std::vector<Weight> weights;
  for (int64_t i = bench.copies(d.dtype, static_cast<int64_t>(row.bytes)); i > 0; --i)
    weights.push_back(bench.weight(d.dtype, d.rows, d.K));
  const Tensor x = bench.activation({T, d.K}), out = bench.activation({T, d.swiglu ? N / 2 : N});
  bench.run(row, static_cast<int64_t>(weights.size()), [&](int64_t i) {
    const Weight& w = weights[static_cast<size_t>(i)];
    if (d.swiglu)
      ops::swiglu(bench.exec(), {.out = out, .x = x, .gate_up = w});
    else
      ops::linear(bench.exec(), {.out = out, .x = x, .w = w, .bias = {}});
  });
}

// --- experts ------------------------------------------------------------------------------------

struct Experts {
  const char* model;
  int64_t E, K, D, F;
  DType dtype;
};
constexpr Experts kExperts[] = {{"v2-lite", 64, 6, 2048, 1408, DType::kF8E4M3},
                                {"v2-lite", 64, 6, 2048, 1408, DType::kBF16},
                                {"v2", 160, 6, 5120, 1536, DType::kF8E4M3},
                                {"v3", 256, 8, 7168, 2048, DType::kF8E4M3}};

void run_experts(Bench& bench, const Experts& c, int64_t T) {
  constexpr int64_t kRoutings = 8;  // that go round
  Exec& exec = bench.exec();
  PhiloxStream random(9, static_cast<uint64_t>(T));
  std::vector<int32_t> ids;
  double wanted = 0;  // experts, on average
  for (int64_t r = 0; r < kRoutings; ++r) {
    std::vector<bool> any(static_cast<size_t>(c.E), false);
    for (int64_t t = 0; t < T; ++t) {
      std::vector<bool> mine(static_cast<size_t>(c.E), false);
      for (int64_t k = 0; k < c.K;) {
        const size_t e = random.next_u32() % static_cast<uint32_t>(c.E);
        if (!mine[e]) ++k;
        mine[e] = any[e] = true;
      }
      for (size_t e = 0; e < mine.size(); ++e)
        if (mine[e]) ids.push_back(static_cast<int32_t>(e));
    }
    wanted += static_cast<double>(std::count(any.begin(), any.end(), true)) / kRoutings;
  }
  const auto expert = static_cast<double>(3 * c.D * c.F);
  const Row row{.op = "moe_experts",
                .model = c.model,
                .shape = std::to_string(c.E) + " of 3x" + std::to_string(c.F) + "x" +
                         std::to_string(c.D) + " top " + std::to_string(c.K),
                .dtype = c.dtype,
                .T = T,
                .bytes = wanted * expert * static_cast<double>(size_bytes(c.dtype)),
                .flop = 2 * expert * static_cast<double>(T * c.K)};
  if (!bench.wanted(row)) return;
  bench.rewind();
  const Weight gate_up =
      bench.weight(c.dtype, std::vector<int64_t>(static_cast<size_t>(2 * c.E), c.F), c.D);
  const Weight down =
      bench.weight(c.dtype, std::vector<int64_t>(static_cast<size_t>(c.E), c.D), c.F);
  const Tensor x = bench.activation({T, c.D}), out = bench.activation({T, c.D});
  Buffer chosen(exec, MemoryKind::kBatch, kRoutings * T * c.K * 8);
  const std::vector<float> weights(ids.size(), 0.125f);
  const Tensor all_ids = Tensor::of(chosen.data(), DType::kI32, {kRoutings * T, c.K});
  const Tensor all_weights = Tensor::of(static_cast<std::byte*>(chosen.data()) + ids.size() * 4,
                                        DType::kF32, {kRoutings * T, c.K});
  exec.upload(all_ids.data, ids.data(), all_ids.size_bytes());
  exec.upload(all_weights.data, weights.data(), all_weights.size_bytes());
  bench.run(row, kRoutings, [&](int64_t i) {
    ops::moe_experts(exec, {.out = out,
                            .x = x,
                            .expert_ids = rows(all_ids, i * T, T),
                            .expert_weights = rows(all_weights, i * T, T),
                            .gate_up = gate_up,
                            .down = down,
                            .addend = {}});
  });
}

MoeRouteArgs route_args(const Experts& c, std::byte* memory, int64_t T) {
  const bool v3 = c.E == 256;
  return {.expert_ids = Tensor::of(memory, DType::kI32, {T, c.K}),
          .expert_weights = Tensor::of(memory + T * c.K * 4, DType::kF32, {T, c.K}),
          .logits = {},
          .correction_bias = {},
          .scoring_func = v3 ? ScoringFunc::kSigmoid : ScoringFunc::kSoftmax,
          .group_score = v3 ? GroupScore::kTop2Sum : GroupScore::kMax,
          .n_group = c.E == 64 ? 1 : 8,
          .topk_group = c.E == 64 ? 1 : 4,
          .norm_topk_prob = v3,
          .routed_scaling_factor = 1};
}

void run_route(Bench& bench, const Experts& c, int64_t T) {
  const Row row{.op = "moe_route",
                .model = c.model,
                .shape = std::to_string(c.E),
                .dtype = DType::kF32,
                .T = T,
                .bytes = static_cast<double>(T * c.E * 4),
                .flop = 0};
  if (!bench.wanted(row)) return;
  bench.rewind();
  Exec& exec = bench.exec();
  Buffer memory(exec, MemoryKind::kBatch, T * c.E * 4 + T * c.K * 8);
  std::vector<float> values;
  PhiloxStream random(3, 3);
  for (int64_t i = 0; i < T * c.E; ++i) values.push_back(random.next_normal());
  exec.upload(memory.data(), values.data(), T * c.E * 4);
  auto* at = static_cast<std::byte*>(memory.data()) + T * c.E * 4;
  MoeRouteArgs args = route_args(c, at, T);
  args.logits = Tensor::of(memory.data(), DType::kF32, {T, c.E});
  bench.run(row, 1, [&](int64_t) { ops::moe_route(exec, args); });
}

void run_gate(Bench& bench, const Experts& c, int64_t T) {
  const auto elements = static_cast<double>(c.E * c.D);
  const Row row{.op = "moe_gate",
                .model = c.model,
                .shape = std::to_string(c.E) + "x" + std::to_string(c.D),
                .dtype = DType::kBF16,
                .T = T,
                .bytes = 2 * elements,
                .flop = 2 * elements * static_cast<double>(T)};
  if (!bench.wanted(row)) return;
  bench.rewind();
  Exec& exec = bench.exec();
  std::vector<Weight> gates;
  for (int64_t i = bench.copies(row.dtype, static_cast<int64_t>(row.bytes)); i > 0; --i)
    gates.push_back(bench.weight(row.dtype, {c.E}, c.D));
  const Tensor x = bench.activation({T, c.D}), residual = bench.activation({T, c.D});
  const Tensor out = bench.activation({T, c.D});
  Buffer memory(exec, MemoryKind::kBatch, c.D * 4 + T * c.K * 8);
  const std::vector<float> ones(static_cast<size_t>(c.D), 1.0f);
  exec.upload(memory.data(), ones.data(), c.D * 4);
  const AddRmsNormArgs norm{.out = out,
                            .residual = residual,
                            .x = x,
                            .weight = Tensor::of(memory.data(), DType::kF32, {c.D}),
                            .eps = 1e-6f};
  const MoeRouteArgs route = route_args(c, static_cast<std::byte*>(memory.data()) + c.D * 4, T);
  bench.run(row, static_cast<int64_t>(gates.size()), [&](int64_t i) {
    ops::moe_gate(exec, {.norm = norm, .gate = gates[static_cast<size_t>(i)], .route = route});
  });
}

}  // namespace

void bench_linears(Bench& bench) {
  for (const Dense& d : dense_shapes())
    for (const int64_t T : {1, 8, 16, 32, 64, 512, 4096})
      if (T <= 64 || d.rows.front() < 100000) run_dense(bench, d, T);
}

void bench_experts(Bench& bench) {
  for (const Experts& c : kExperts) {
    for (const int64_t T : {1, 8, 32, 64, 512, 1024, 4096}) run_experts(bench, c, T);
    if (c.dtype == DType::kF8E4M3)
      for (const int64_t T : {1, 8, 64}) {
        run_route(bench, c, T);
        run_gate(bench, c, T);
      }
  }
}

}  // namespace dsr::test
