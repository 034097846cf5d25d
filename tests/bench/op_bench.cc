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
#include "bench/op_bench.h"

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "base/rng.h"
#include "device/cuda_graph.h"

namespace dsr::test {
namespace {

constexpr int64_t kPoolBytes = int64_t{12} << 30;
constexpr int64_t kPatternBytes = int64_t{32} << 20;
constexpr int kReplays = 7;
constexpr double kSecondsPerReplay = 4e-3;
constexpr QuantScheme kBlocks{128, 128};

}  // namespace

Pool::Pool(Exec& exec, DType dtype, int64_t bytes)
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

Tensor Pool::cut(const Shape& shape) {
  const Tensor out = Tensor::of(static_cast<std::byte*>(buffer_.data()) + used_, dtype_, shape);
  used_ += (out.size_bytes() + 255) / 256 * 256;
  DSR_CHECK(used_ <= buffer_.size_bytes(), used_);
  return out;
}

Bench::Bench(Exec& exec, std::string filter)
    : exec_(exec),
      filter_(std::move(filter)),
      peaks_(PeakProbe().measure(exec)),
      fp8_(exec, DType::kF8E4M3, kPoolBytes),
      bf16_(exec, DType::kBF16, kPoolBytes / 4),
      scales_(exec, DType::kF32, kPatternBytes),
      activations_(exec, DType::kBF16, int64_t{1} << 30) {
  std::fprintf(stderr, "measured: %.2f TB/s, %.0f TFLOP/s with mma.sync\n",
               peaks_.bytes_per_s * 1e-12, peaks_.flop_per_s * 1e-12);
  std::printf("op,model,shape,dtype,T,us,spread_us,GB/s,TFLOP/s,share\n");
}

bool Bench::wanted(const Row& r) const {
  return (r.op + " " + r.model + " " + r.shape + " " + name(r.dtype)).find(filter_) !=
         std::string::npos;
}

void Bench::rewind() {
  fp8_.rewind();
  bf16_.rewind();
  scales_.rewind();
  activations_.rewind();
}

Weight Bench::weight(DType dtype, const std::vector<int64_t>& rows, int64_t K) {
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

int64_t Bench::copies(DType dtype, int64_t bytes) const {
  const int64_t pool = dtype == DType::kF8E4M3 ? kPoolBytes : kPoolBytes / 4;
  return std::clamp<int64_t>(4 * exec_.cuda().l2_bytes() / bytes + 1, 1, pool * 9 / 10 / bytes);
}

void Bench::run(const Row& row, int64_t n_different, const std::function<void(int64_t)>& launch) {
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
    graphs.run(exec_.cuda(), {.n_seqs = 1, .table_width = 0}, work);
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

namespace {

int run(const std::string& filter) {
  if (cuda_devices().empty()) {
    std::fprintf(stderr, "op_bench: %s\n", cuda_absence().c_str());
    return 1;
  }
  Exec exec(Backend::kCuda);
  exec.scratch().reserve(Buffer(exec, MemoryKind::kActivations, int64_t{2} << 30));
  Bench bench(exec, filter);
  bench_linears(bench);
  bench_experts(bench);
  bench_mla(bench);
  bench_sampling(bench);
  return 0;
}

}  // namespace
}  // namespace dsr::test

int main(int argc, char** argv) {
  try {
    return dsr::test::run(argc > 1 ? argv[1] : "");
  } catch (const dsr::Error& e) {
    std::fprintf(stderr, "op_bench: %s\n", e.what());
    return 1;
  }
}
