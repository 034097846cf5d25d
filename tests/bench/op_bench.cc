// How long the weight-reading ops, and sampling, take on a GPU, in the shapes of released models.
//
//   op_bench [FILTER]      rows whose text contains FILTER; CSV on standard output
//
// A row is replays of one graph of many launches. Every launch reads other weights than the ones
// before it, together several times the L2, so weights come from memory as they do in a model;
// activations stay in the L2, as they do there. Kernels follow each other as in a decode step (on
// sm_90 as programmatic dependents). `share` is of the ceiling measured in this process: bandwidth
// for up to 64 tokens, products on mma.sync above. Logits to sample from stay in the L2, where the
// head has just put them.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "device/cuda_graph.h"
#include "device/peaks.h"
#include "ops/linear.h"
#include "ops/mla.h"
#include "ops/moe.h"
#include "ops/sample.h"

namespace dsr {
namespace {

constexpr int64_t kPoolBytes = int64_t{12} << 30;
constexpr int64_t kPatternBytes = int64_t{32} << 20;
constexpr int kReplays = 7;
constexpr double kSecondsPerReplay = 4e-3;
constexpr QuantScheme kBlocks{128, 128};

// Device memory full of random weights of one type. Tensors are cut from it one after the other.
class Pool {
 public:
  Pool(Exec& exec, DType dtype, int64_t bytes)
      : dtype_(dtype), buffer_(exec, MemoryKind::kWeights, bytes) {
    PhiloxStream random(5, 1);
    std::vector<std::byte> pattern(static_cast<size_t>(std::min(bytes, kPatternBytes)));
    const auto n = static_cast<int64_t>(pattern.size()) / size_bytes(dtype);
    for (int64_t i = 0; i < n; ++i) {
      // Like a trained weight's code or value, or like its scale.
      const float v = dtype == DType::kF32
                          ? 1e-4f * (0.5f + random.next_uniform())
                          : random.next_normal() * (dtype == DType::kF8E4M3 ? 32.0f : 0.02f);
      from_f32(dtype, &v, pattern.data() + i * size_bytes(dtype), 1);
    }
    for (int64_t at = 0; at < bytes; at += kPatternBytes)
      exec.upload(static_cast<std::byte*>(buffer_.data()) + at, pattern.data(),
                  std::min(bytes - at, kPatternBytes));
  }
  void rewind() { used_ = 0; }
  // Whether `bytes` more fit.
  bool fits(int64_t bytes) const { return used_ + bytes <= buffer_.size_bytes(); }
  Tensor cut(const Shape& shape) {
    const Tensor out = Tensor::of(static_cast<std::byte*>(buffer_.data()) + used_, dtype_, shape);
    used_ += (out.size_bytes() + 255) / 256 * 256;
    DSR_CHECK(used_ <= buffer_.size_bytes(), used_);
    return out;
  }

 private:
  DType dtype_;
  Buffer buffer_;
  int64_t used_ = 0;
};

struct Row {
  std::string op, model, shape;
  DType dtype;
  int64_t T;
  double bytes, flop;  // of one launch
};

class Bench {
 public:
  Bench(Exec& exec, std::string filter)
      : exec_(exec),
        filter_(std::move(filter)),
        peaks_(measure_peaks(exec)),
        fp8_(exec, DType::kF8E4M3, kPoolBytes),
        bf16_(exec, DType::kBF16, kPoolBytes / 4),
        scales_(exec, DType::kF32, kPatternBytes),
        activations_(exec, DType::kBF16, int64_t{1} << 30) {
    std::fprintf(stderr, "measured: %.2f TB/s, %.0f TFLOP/s with mma.sync\n",
                 peaks_.bytes_per_s * 1e-12, peaks_.flop_per_s * 1e-12);
    std::printf("op,model,shape,dtype,T,us,spread_us,GB/s,TFLOP/s,share\n");
  }

  bool wanted(const Row& r) const {
    return (r.op + " " + r.model + " " + r.shape + " " + name(r.dtype)).find(filter_) !=
           std::string::npos;
  }
  Weight weight(DType dtype, const std::vector<int64_t>& rows, int64_t K) {
    Weight w;
    if (dtype == DType::kF8E4M3) w.quant = kBlocks;
    for (const int64_t n : rows) {
      WeightSegment s;
      s.data = (dtype == DType::kF8E4M3 ? fp8_ : bf16_).cut({n, K});
      if (dtype == DType::kF8E4M3) s.scales = scales_.cut({(n + 127) / 128, (K + 127) / 128});
      w.segments.push_back(s);
    }
    return w;
  }
  Tensor activation(const Shape& shape) { return activations_.cut(shape); }
  void rewind() {
    fp8_.rewind();
    bf16_.rewind();
    scales_.rewind();
    activations_.rewind();
  }
  // How many different weights of `bytes` go round: several times the L2, within the pools.
  int64_t copies(DType dtype, int64_t bytes) const {
    const int64_t pool = dtype == DType::kF8E4M3 ? kPoolBytes : kPoolBytes / 4;
    return std::clamp<int64_t>(4 * exec_.cuda().l2_bytes() / bytes + 1, 1, pool * 9 / 10 / bytes);
  }

  // launch(i): the i-th of the launches that go round.
  void run(const Row& row, int64_t n_different, const std::function<void(int64_t)>& launch) {
    const double floor =
        std::max({row.bytes / peaks_.bytes_per_s, row.flop / peaks_.flop_per_s, 2e-6});
    const auto n = std::max(n_different, static_cast<int64_t>(kSecondsPerReplay / floor));
    const auto work = [&] {
      for (int64_t i = 0; i < n; ++i) launch(i % n_different);
    };
    CudaGraphs graphs;
    std::vector<double> us;
    for (int i = 0; i < kReplays + 3; ++i) {  // runs, records, replays once, then counts
      const auto begin = std::chrono::steady_clock::now();
      graphs.run(exec_.cuda(), 1, work);
      exec_.cuda().synchronize();
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
      if (i >= 3) us.push_back(took.count() * 1e6 / static_cast<double>(n));
    }
    std::sort(us.begin(), us.end());
    const double median = us[us.size() / 2];
    const double share = row.T <= 64 ? row.bytes / median * 1e6 / peaks_.bytes_per_s
                                     : row.flop / median * 1e6 / peaks_.flop_per_s;
    std::printf("%s,%s,%s,%s,%lld,%.2f,%.2f,%.0f,%.1f,%.3f\n", row.op.c_str(), row.model.c_str(),
                row.shape.c_str(), name(row.dtype), static_cast<long long>(row.T), median,
                us.back() - us.front(), row.bytes / median * 1e-3, row.flop / median * 1e-6, share);
    std::fflush(stdout);
  }

  Exec& exec() { return exec_; }

 private:
  Exec& exec_;
  std::string filter_;
  Peaks peaks_;
  Pool fp8_, bf16_, scales_, activations_;
};

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

// --- MLA ----------------------------------------------------------------------------------------

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
void run_attention(Bench& bench, const char* model, int64_t H, int64_t S, int64_t n, bool value) {
  const MlaRowFormat format{CacheType::kBF16, kRank, kRope};
  const int64_t n_blocks = S * ceil_div(n, kPageTokens);
  const Row row{.op = value ? "mla_attention_and_value" : "mla_attention",
                .model = model,
                .shape = std::to_string(H) + " heads; " + std::to_string(n) + " tokens",
                .dtype = DType::kBF16,
                .T = S,
                .bytes = static_cast<double>(S * n * format.row_bytes()),
                .flop = static_cast<double>(2 * S * H * n * (2 * kRank + kRope))};
  if (!bench.wanted(row)) return;
  bench.rewind();
  Exec& exec = bench.exec();
  std::vector<Tensor> caches;
  for (int64_t i = bench.copies(row.dtype, n_blocks * format.page_bytes()); i > 0; --i) {
    const Weight rows = bench.weight(DType::kBF16, {n_blocks * kPageTokens}, kRank + kRope);
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

// --- sample -------------------------------------------------------------------------------------

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

int run(const std::string& filter) {
  if (cuda_devices().empty()) {
    std::fprintf(stderr, "op_bench: %s\n", cuda_absence().c_str());
    return 1;
  }
  Exec exec(Backend::kCuda);
  exec.scratch().reserve(Buffer(exec, MemoryKind::kActivations, int64_t{2} << 30));
  Bench bench(exec, filter);
  for (const Dense& d : dense_shapes())
    for (const int64_t T : {1, 8, 16, 32, 64, 512, 4096})
      if (T <= 64 || d.rows.front() < 100000) run_dense(bench, d, T);
  for (const Experts& c : kExperts) {
    for (const int64_t T : {1, 8, 32, 64, 512, 1024, 4096}) run_experts(bench, c, T);
    if (c.dtype == DType::kF8E4M3)
      for (const int64_t T : {1, 8, 64}) {
        run_route(bench, c, T);
        run_gate(bench, c, T);
      }
  }
  for (const auto& [model, H] : {std::pair{"v2-lite", 16}, std::pair{"v3", 128}})
    for (const int64_t T : {1, 8, 64, 1024})
      for (const bool query : {true, false}) run_mla(bench, model, H, T, query);
  for (const auto& [model, H] : {std::pair{"v2-lite", 16}, std::pair{"v3", 128}})
    for (const auto& [S, n] : {std::pair{1, 1024}, std::pair{1, 8192}, std::pair{1, 32768},
                               std::pair{8, 1024}, std::pair{64, 512}, std::pair{64, 8192}})
      for (const bool value : {false, true}) run_attention(bench, model, H, S, n, value);
  for (const auto& [model, H] : {std::pair{"v2-lite", 16}, std::pair{"v3", 128}})
    for (const auto& [T, n] : {std::pair{512, 512}, std::pair{512, 4096}, std::pair{512, 16384}})
      run_expanded(bench, model, H, T, n);
  for (const int64_t V : {102400, 129280})
    for (const Sampling& c : kSamplings)
      for (const int64_t R : {1, 8, 64}) run_sample(bench, c, V, R);
  return 0;
}

}  // namespace
}  // namespace dsr

int main(int argc, char** argv) {
  try {
    return dsr::run(argc > 1 ? argv[1] : "");
  } catch (const dsr::Error& e) {
    std::fprintf(stderr, "op_bench: %s\n", e.what());
    return 1;
  }
}
