// Rows of op_bench: drawing a token.
#include <memory>

#include "base/rng.h"
#include "bench/op_bench.h"
#include "ops/sample.h"

namespace dsr::test {
namespace {

struct Sampling {
  const char* what;
  SampleRow row;
};
const Sampling kSamplings[] = {
    {"greedy", {}},
    {"temperature 0.6", {.temperature = 0.6f}},
    {"temperature 0.6 top-p 0.95", {.temperature = 0.6f, .top_p = 0.95f}},
    {"greedy, 64 penalised", {.repetition_penalty = 1.1f, .history_end = 64}}};

void run_sample(Bench& bench, const Sampling& c, int64_t V, int64_t R) {
  const Row row{.op = "sample",
                .model = V == 102400 ? "v2-lite" : "v3",
                .shape = std::to_string(V) + " " + c.what,
                .dtype = DType::kF32,
                .T = R,
                .bytes = static_cast<double>(R * V * 4),
                .flop = 0};
  if (!bench.wanted(row)) return;
  Exec& exec = bench.exec();
  PhiloxStream random(2, 2);
  std::vector<float> values(static_cast<size_t>(R * V));
  for (float& v : values) v = 3 * random.next_normal();
  std::vector<SampleRow> rows(static_cast<size_t>(R), c.row);
  std::vector<int32_t> allowed(static_cast<size_t>((V + 31) / 32), -1), history;
  for (int32_t i = 0; i < c.row.history_end; ++i) history.push_back(i * 101);
  std::vector<std::unique_ptr<Buffer>> buffers;
  const auto tensor = [&](DType type, const Shape& shape, const void* from) {
    Tensor t = Tensor::of(nullptr, type, shape);
    buffers.push_back(std::make_unique<Buffer>(exec, MemoryKind::kBatch, t.size_bytes() + 1));
    t.data = buffers.back()->data();
    if (from != nullptr) exec.upload(t.data, from, t.size_bytes());
    return t;
  };
  const SampleArgs args{.token_ids = tensor(DType::kI32, {R}, nullptr),
                        .non_finite = tensor(DType::kI32, {R}, nullptr),
                        .logits = tensor(DType::kF32, {R, V}, values.data()),
                        .rows = tensor(DType::kU8, {R, int64_t{sizeof(SampleRow)}}, rows.data()),
                        .allowed = tensor(DType::kI32, {std::ssize(allowed)}, allowed.data()),
                        .history = tensor(DType::kI32, {std::ssize(history)}, history.data()),
                        .bias_ids = {},
                        .bias_values = {}};
  bench.run(row, 1, [&](int64_t) { ops::sample(exec, args); });
}

}  // namespace

void bench_sampling(Bench& bench) {
  for (const int64_t V : {102400, 129280})
    for (const Sampling& c : kSamplings)
      for (const int64_t R : {1, 8, 64}) run_sample(bench, c, V, R);
}

}  // namespace dsr::test
