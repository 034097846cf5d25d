// Rows of op_bench: MLA's projections, decode rows and prompts.
#include <utility>

#include "bench/op_bench.h"
#include "ops/mla.h"

namespace dsr::test {
namespace {

constexpr int64_t kRank = 512, kRope = 64, kHead = 128;  // of V2 and V3

// The batch's arrays, one behind the other in device memory.
class BatchArrays {
 public:
  BatchArrays(Exec& exec, const std::vector<int32_t>& values)
      : memory_(exec, MemoryKind::kBatch, std::ssize(values) * 4) {
    exec.upload(memory_.data(), values.data(), memory_.size_bytes());
  }
  Tensor part(DType dtype, int64_t first, const Shape& shape) const {
    return Tensor::of(static_cast<std::byte*>(memory_.data()) + first * 4, dtype, shape);
  }

 private:
  Buffer memory_;
};

// query: mla_query_and_write; else mla_value.
void run_mla(Bench& bench, const char* model, int64_t H, int64_t T, bool query) {
  const MlaRowFormat format{CacheType::kBF16, kRank, kRope};
  const auto elements = static_cast<double>(H * kHead * kRank);
  const Row row{.op = query ? "mla_query_and_write" : "mla_value",
                .model = model,
                .shape = std::to_string(H) + " heads",
                .dtype = DType::kF8E4M3,
                .T = T,
                .bytes = elements,
                .flop = 2 * elements * static_cast<double>(T)};
  if (!bench.wanted(row)) return;
  bench.rewind();
  Exec& exec = bench.exec();
  std::vector<Weight> weights;
  for (int64_t i = bench.copies(row.dtype, static_cast<int64_t>(row.bytes)); i > 0; --i)
    weights.push_back(bench.weight(row.dtype, {2 * H * kHead}, kRank));
  const Tensor q = bench.activation({T, H, kHead + kRope}), o = bench.activation({T, H, kHead});
  const Tensor latent = bench.activation({T, H, kRank}),
               kv_a = bench.activation({T, kRank + kRope});
  const Tensor query_out = bench.activation({T, H, kRank + kRope});
  const Tensor pages = bench.activation({ceil_div(T, kPageTokens), format.page_bytes() / 2});
  // Slots, positions, angles, norm.
  std::vector<int32_t> values(static_cast<size_t>(3 * T + kRope / 2 + kRank));
  for (int64_t t = 0; t < T; ++t) values[static_cast<size_t>(2 * t)] = static_cast<int32_t>(t);
  const BatchArrays arrays(exec, values);
  const Tensor positions = arrays.part(DType::kI32, 2 * T, {T});
  const Tensor angles = arrays.part(DType::kF32, 3 * T, {1, kRope / 2});
  const RopeTable rope{angles, angles};
  bench.run(row, std::ssize(weights), [&](int64_t i) {
    const Weight& w = weights[static_cast<size_t>(i)];
    if (query)
      ops::mla_query_and_write(
          exec, {.query = {.out = query_out,
                           .q = q,
                           .kv_b_proj = w,
                           .v_head_dim = kHead,
                           .rope = rope,
                           .positions = positions},
                 .write = {.kv_a = kv_a,
                           .weight = arrays.part(DType::kF32, 3 * T + kRope / 2, {kRank}),
                           .eps = 1e-6f,
                           .rope = rope,
                           .positions = positions,
                           .slots = arrays.part(DType::kI64, 0, {T}),
                           .cache = {format, Tensor::of(pages.data, DType::kU8,
                                                        {pages.shape[0], format.page_bytes()})}}});
    else
      ops::mla_value(exec, {.out = o, .latent = latent, .kv_b_proj = w, .qk_nope_head_dim = kHead});
  });
}

// Decode: S sequences, each with one new token that looks at n; up to the values or to the latents.
void run_attention(Bench& bench, const char* model, int64_t H, int64_t S, int64_t n, bool value,
                   DType cache) {
  const bool fp8 = cache == DType::kF8E4M3;
  const MlaRowFormat format{fp8 ? CacheType::kFP8 : CacheType::kBF16, kRank, kRope};
  const int64_t n_blocks = S * ceil_div(n, kPageTokens);
  const Row row{.op = value ? "mla_attention_and_value" : "mla_attention",
                .model = model,
                .shape = std::to_string(H) + " heads; " + std::to_string(n) + " tokens",
                .dtype = cache,
                .T = S,
                .bytes = static_cast<double>(S * n * format.row_bytes()),
                .flop = static_cast<double>(2 * S * H * n * (2 * kRank + kRope))};
  if (!bench.wanted(row)) return;
  bench.rewind();
  Exec& exec = bench.exec();
  std::vector<Tensor> caches;
  for (int64_t i = bench.copies(row.dtype, n_blocks * format.page_bytes()); i > 0; --i) {
    // Of fp8, codes in the place of scales and keys as well: some finite numbers.
    const Weight rows =
        bench.weight(cache, {n_blocks * kPageTokens}, fp8 ? format.row_bytes() : kRank + kRope);
    caches.push_back(
        Tensor::of(rows.segments.front().data.data, DType::kU8, {n_blocks, format.page_bytes()}));
  }
  const Tensor q = bench.activation({S, H, kRank + kRope}), out = bench.activation({S, H, kRank});
  const Tensor o = bench.activation({S, H, kHead});
  const Weight kv_b = bench.weight(DType::kF8E4M3, {2 * H * kHead}, kRank);
  std::vector<int32_t> batch(static_cast<size_t>(S), static_cast<int32_t>(n - 1));
  for (int64_t i = 0; i <= S; ++i) batch.push_back(static_cast<int32_t>(i));
  for (int64_t i = 0; i < n_blocks; ++i) batch.push_back(static_cast<int32_t>(i));
  const BatchArrays arrays(exec, batch);
  bench.run(row, std::ssize(caches), [&](int64_t i) {
    const MlaAttentionArgs a = {
        .out = out,
        .q = q,
        .cache = {format, caches[static_cast<size_t>(i)]},
        .positions = arrays.part(DType::kI32, 0, {S}),
        .cu_seqlens_q = arrays.part(DType::kI32, S, {S + 1}),
        .block_table = arrays.part(DType::kI32, 2 * S + 1, {S, n_blocks / S}),
        .softmax_scale = 0.1f};
    if (value)
      ops::mla_attention_and_value(
          exec, {.attention = a,
                 .value = {.out = o, .latent = out, .kv_b_proj = kv_b, .qk_nope_head_dim = kHead}});
    else
      ops::mla_attention(exec, a);
  });
}

// A prompt's chunk of T tokens behind n - T others, expanded.
void run_expanded(Bench& bench, const char* model, int64_t H, int64_t T, int64_t n) {
  const MlaRowFormat format{CacheType::kBF16, kRank, kRope};
  const int64_t n_blocks = ceil_div(n, kPageTokens);
  const double seen =
      static_cast<double>(T) * (static_cast<double>(n - T) + 0.5 * static_cast<double>(T));
  const Row row{.op = "mla_expanded_attention",
                .model = model,
                .shape = std::to_string(H) + " heads; " + std::to_string(n) + " tokens",
                .dtype = DType::kF8E4M3,
                .T = T,
                .bytes = static_cast<double>(n * format.row_bytes()),
                .flop = static_cast<double>(2 * H) *
                        (static_cast<double>(n * 2 * kHead * kRank) + seen * (2 * kHead + kRope))};
  if (!bench.wanted(row)) return;
  bench.rewind();
  Exec& exec = bench.exec();
  const Weight w = bench.weight(row.dtype, {2 * H * kHead}, kRank);
  const Tensor rows =
      bench.weight(DType::kBF16, {n_blocks * kPageTokens}, kRank + kRope).segments.front().data;
  const Tensor q = bench.activation({T, H, kHead + kRope}), out = bench.activation({T, H, kHead});
  std::vector<int32_t> batch;
  for (int64_t t = 0; t < T; ++t) batch.push_back(static_cast<int32_t>(n - T + t));
  for (int64_t i = 0; i < n_blocks; ++i) batch.push_back(static_cast<int32_t>(i));
  batch.insert(batch.end(), {0, static_cast<int32_t>(T)});
  const int64_t arrays_end = std::ssize(batch);
  batch.resize(batch.size() + static_cast<size_t>(n * kRope / 2));
  const BatchArrays arrays(exec, batch);
  const Tensor angles = arrays.part(DType::kF32, arrays_end, {n, kRope / 2});
  bench.run(row, 1, [&](int64_t) {
    ops::mla_expanded_attention(
        exec,
        {.out = out,
         .q = q,
         .kv_b_proj = w,
         .rope = {angles, angles},
         .cache = {format, Tensor::of(rows.data, DType::kU8, {n_blocks, format.page_bytes()})},
         .positions = arrays.part(DType::kI32, 0, {T}),
         .cu_seqlens_q = arrays.part(DType::kI32, arrays_end - 2, {2}),
         .block_table = arrays.part(DType::kI32, T, {1, n_blocks}),
         .softmax_scale = 0.1f,
         .n_rows = n_blocks * kPageTokens});
  });
}

}  // namespace

void bench_mla(Bench& bench) {
  constexpr std::pair<const char*, int64_t> kModels[] = {{"v2-lite", 16}, {"v3", 128}};
  for (const auto& [model, H] : kModels)
    for (const int64_t T : {1, 8, 64, 1024})
      for (const bool query : {true, false}) run_mla(bench, model, H, T, query);
  for (const auto& [model, H] : kModels)
    for (const auto& [S, n] : {std::pair{1, 1024}, std::pair{1, 8192}, std::pair{1, 32768},
                               std::pair{8, 1024}, std::pair{64, 512}, std::pair{64, 8192}}) {
      for (const bool value : {false, true})
        run_attention(bench, model, H, S, n, value, DType::kBF16);
      run_attention(bench, model, H, S, n, /*value=*/false, DType::kF8E4M3);
    }
  for (const auto& [model, H] : kModels)
    for (const auto& [T, n] : {std::pair{512, 512}, std::pair{512, 4096}, std::pair{512, 16384}})
      run_expanded(bench, model, H, T, n);
}

}  // namespace dsr::test
