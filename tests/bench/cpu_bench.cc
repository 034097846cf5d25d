// The inner loops of the cpu backend, one row each: by level, format, tokens, and where the weights
// lie (in the caches or in memory). One thread. GB/s counts weights, GFLOP/s two operations for a
// multiply-add of a weight and a token.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <random>
#include <vector>

#include "base/error.h"
#include "ops/cpu/inner_loops.h"
#include "tensor/dtype.h"

namespace dsr::cpu {
namespace {

constexpr int64_t kColumns = 2048;
constexpr int64_t kInCache = 64, kInMemory = 1 << 17;  // rows: 128 KB and 256 MB of codes

// Values at a multiple of 64 bytes, as the engine has them.
template <typename T>
class Values {
 public:
  explicit Values(int64_t n) : all_(static_cast<size_t>(n) + kPad), n_(n) {
    const auto address = reinterpret_cast<uintptr_t>(all_.data());
    data_ = all_.data() + (64 - address % 64) % 64 / sizeof(T);
  }
  T* data() { return data_; }
  T* begin() { return data_; }
  T* end() { return data_ + n_; }

 private:
  static constexpr size_t kPad = 64 / sizeof(T);
  std::vector<T> all_;
  int64_t n_;
  T* data_;
};

// Codes of a normal distribution whose deviation is 120, so that few of them are cut at 448, as
// weights are stored.
std::vector<uint8_t> normal_codes(std::mt19937& random) {
  std::normal_distribution<float> normal(0, 120);
  std::vector<uint8_t> out(1 << 16);
  for (uint8_t& code : out) code = f32_to_e4m3(std::clamp(normal(random), -448.0f, 448.0f));
  return out;
}

// Codes of weights; as bf16 or float32 numbers of moderate size.
template <typename T>
Values<T> random_values(int64_t n) {
  std::mt19937 random(1);
  const std::vector<uint8_t> codes = normal_codes(random);
  Values<T> out(n);
  for (T& v : out) {
    const auto bits = static_cast<uint32_t>(random());
    if constexpr (sizeof(T) == 1)
      v = codes[bits % codes.size()];
    else if constexpr (sizeof(T) == 2)
      v = static_cast<T>(0x3f00 + bits % 128 + (bits >> 31) * 0x8000);
    else
      v = static_cast<T>(bits % 1000) / 1000 - T{0.5};
  }
  return out;
}

void count(benchmark::State& state, double bytes, double flop) {
  const auto rate = benchmark::Counter::kIsIterationInvariantRate;
  if (bytes > 0) state.counters["GB/s"] = benchmark::Counter(bytes * 1e-9, rate);
  if (flop > 0) state.counters["GFLOP/s"] = benchmark::Counter(flop * 1e-9, rate);
}

template <typename T>
void dots(benchmark::State& state, void (*loop)(const DotArgs&), int64_t rows, int64_t tokens,
          decltype(InnerLoops::Raised::raise) raise = nullptr) {
  rows /= static_cast<int64_t>(sizeof(T));
  Values<T> w = random_values<T>(rows * kColumns);
  constexpr int64_t kStride = kColumns + kLanes;  // as linear layers scale them
  Values<float> x = random_values<float>(tokens * kStride);
  std::vector<float> out(static_cast<size_t>(rows * tokens));
  constexpr int64_t kTile = 128;  // rows, as linear layers take them
  DotArgs a{};
  a.row_bytes = kColumns * int64_t{sizeof(T)};
  a.steps = std::min(rows, kTile) / kDotRows;
  a.tokens = tokens;
  a.columns = kColumns;
  a.row_stride = tokens;
  a.token_stride = 1;
  const std::vector<float> scales(kColumns / 128, 0.01f);
  Values<float> raised(raise != nullptr ? tokens * kStride : 0);
  for (int64_t t = 0; t < tokens; ++t) a.x[t] = x.data() + t * kStride;
  if (raise != nullptr) {
    const bool raises = raise({.x = a.x,
                               .scales = scales.data(),
                               .block_columns = 128,
                               .columns = kColumns,
                               .tokens = tokens,
                               .all = raised.data(),
                               .stride = kStride});
    DSR_CHECK(raises, tokens);
    for (int64_t t = 0; t < tokens; ++t) a.x[t] = raised.data() + t * kStride;
  }
  for (auto _ : state) {
    for (int64_t row = 0; row < rows; row += kDotRows * a.steps) {
      for (int64_t r = 0; r < kDotRows; ++r) {
        a.rows[r] = w.data() + (row + r * a.steps) * kColumns;
        a.next[r] = w.data() + (row + (r + kDotRows) * a.steps) * kColumns;
        a.out[r] = out.data() + (row + r * a.steps) * tokens;
      }
      loop(a);
    }
    benchmark::ClobberMemory();
  }
  const double products = static_cast<double>(rows * kColumns);
  count(state, products * sizeof(T), 2 * products * static_cast<double>(tokens));
}

// As many tokens as an expert of V2-Lite has of a prompt of 512.
void tile(benchmark::State& state, const InnerLoops& loops) {
  constexpr int64_t kTokens = 48;
  const int64_t columns = loops.tile_size.columns;
  Values<uint16_t> rows = random_values<uint16_t>(kGroupRows * columns);
  Values<float> w(kGroupRows * columns);
  loops.pack_bf16({.first = rows.data(),
                   .row_bytes = 2 * columns,
                   .rows = kGroupRows,
                   .columns = columns,
                   .w = w.data(),
                   .next = rows.data()});
  Values<float> x = random_values<float>(kTokens * 2 * columns);
  Values<float> lanes(kTokens * kGroupRows * kLanes), sums(kTokens * kTileRows);
  for (auto _ : state) {
    for (const bool begin : {true, false})  // the first columns and the last ones
      loops.tile.run({.w = w.data(),
                      .x = x.data() + (begin ? 0 : kTokens * columns),
                      .raw = {},
                      .tokens = kTokens,
                      .columns = columns,
                      .begin = begin,
                      .lanes = lanes.data(),
                      .sums = begin ? nullptr : sums.data(),
                      .sums_stride = kTileRows});
    benchmark::ClobberMemory();
  }
  count(state, 0, 2 * 2.0 * static_cast<double>(kGroupRows * kTokens * columns));
}

// A group of rows for a tile.
template <typename T>
void pack(benchmark::State& state, void (*loop)(const RowsToPack&), const InnerLoops& loops) {
  const int64_t columns = loops.tile_size.columns;
  Values<T> rows = random_values<T>(kGroupRows * columns);
  Values<float> w(kGroupRows * columns);
  const auto bytes = static_cast<int64_t>(sizeof(T));
  for (auto _ : state) {
    loop({.first = rows.data(),
          .row_bytes = columns * bytes,
          .rows = kGroupRows,
          .columns = columns,
          .w = w.data(),
          .next = rows.data()});
    benchmark::ClobberMemory();
  }
  count(state, static_cast<double>(kGroupRows * columns * bytes), 0);
}

void scale(benchmark::State& state, const InnerLoops& loops) {
  Values<float> x = random_values<float>(kColumns);
  const std::vector<float> scales(kColumns / 128, 0.01f);
  Values<float> out(kColumns);
  for (auto _ : state) {
    loops.scale(x.data(), scales.data(), 128, 0, kColumns, out.data());
    benchmark::ClobberMemory();
  }
  count(state, kColumns * 4.0, 0);
}

template <typename T, typename Out>
void decode(benchmark::State& state, void (*loop)(const T*, int64_t, Out*)) {
  Values<T> row = random_values<T>(kColumns);
  Values<Out> out(kColumns);
  for (auto _ : state) {
    loop(row.data(), kColumns, out.data());
    benchmark::ClobberMemory();
  }
  count(state, kColumns * sizeof(T), 0);
}

void has_nan(benchmark::State& state, const InnerLoops& loops) {
  Values<uint8_t> row = random_values<uint8_t>(kColumns);
  for (auto _ : state) benchmark::DoNotOptimize(loops.has_e4m3_nan(row.data(), kColumns));
  count(state, kColumns, 0);
}

void exponentials(benchmark::State& state, const InnerLoops& loops) {
  Values<float> x = random_values<float>(kColumns);
  Values<float> out(kColumns);
  for (auto _ : state) {
    loops.exp_minus(x.data(), 1, kColumns, out.data());
    benchmark::ClobberMemory();
  }
  count(state, kColumns * 4.0, 0);
}

void silu(benchmark::State& state, const InnerLoops& loops) {
  Values<float> gate = random_values<float>(kColumns), up = random_values<float>(kColumns);
  Values<float> out(kColumns);
  for (auto _ : state) {
    loops.silu_times(gate.data(), up.data(), kColumns, out.data());
    benchmark::ClobberMemory();
  }
  count(state, kColumns * 8.0, 0);
}

// Of MLA: 4 heads, a page of 64 keys, latents of 512.
void weighted_rows(benchmark::State& state, const InnerLoops& loops) {
  constexpr int64_t kHeads = 4, kKeys = 64, kWidth = 512;
  Values<float> p = random_values<float>(kHeads * kKeys);
  Values<float> rows = random_values<float>(kKeys * kWidth);
  Values<float> sum(kHeads * kWidth);
  for (auto _ : state) {
    loops.add_weighted_rows({.p = p.data(),
                             .p_stride = kKeys,
                             .queries = kHeads,
                             .rows = rows.data(),
                             .row_stride = kWidth,
                             .n = kKeys,
                             .sum = sum.data(),
                             .sum_stride = kWidth,
                             .columns = kWidth});
    benchmark::ClobberMemory();
  }
  count(state, 0, 2.0 * kHeads * kKeys * kWidth);
}

template <typename F>
void add(const std::string& name, const F& f) {
  benchmark::RegisterBenchmark(name.c_str(), f);
}

void add_dots(const std::string& level, const InnerLoops& loops, bool in_memory) {
  const int64_t rows = in_memory ? kInMemory : kInCache;
  for (const int64_t tokens : {1, 2, 3, 4, 6, 8, 12}) {
    const std::string end = str("/", in_memory ? "memory" : "cache", "/tokens:", tokens);
    add(level + "/dots_e4m3" + end,
        [&loops, rows, tokens](auto& s) { dots<uint8_t>(s, loops.dots_e4m3, rows, tokens); });
    if (tokens <= loops.raised.tokens)
      add(level + "/raised_dots_e4m3" + end, [&loops, rows, tokens](auto& s) {
        dots<uint8_t>(s, loops.raised.dots_e4m3, rows, tokens, loops.raised.raise);
      });
    add(level + "/dots_bf16" + end,
        [&loops, rows, tokens](auto& s) { dots<uint16_t>(s, loops.dots_bf16, rows, tokens); });
    add(level + "/dots_f32" + end,
        [&loops, rows, tokens](auto& s) { dots<float>(s, loops.dots_f32, rows, tokens); });
  }
}

void add_level(CpuLevel cpu_level) {
  const InnerLoops& loops = inner_loops(cpu_level);
  const std::string level = name(cpu_level);
  add_dots(level, loops, false);
  if (cpu_level == best_cpu_level()) add_dots(level, loops, true);
  add(level + "/tile", [&loops](auto& s) { tile(s, loops); });
  add(level + "/scale", [&loops](auto& s) { scale(s, loops); });
  add(level + "/decode_e4m3", [&loops](auto& s) { decode(s, loops.decode_e4m3); });
  add(level + "/pack_e4m3", [&loops](auto& s) { pack<uint8_t>(s, loops.pack_e4m3, loops); });
  add(level + "/pack_bf16", [&loops](auto& s) { pack<uint16_t>(s, loops.pack_bf16, loops); });
  add(level + "/pack_e4m3_as_bf16",
      [&loops](auto& s) { pack<uint8_t>(s, loops.pack_e4m3_as_bf16, loops); });
  add(level + "/decode_bf16", [&loops](auto& s) { decode(s, loops.decode_bf16); });
  add(level + "/has_e4m3_nan", [&loops](auto& s) { has_nan(s, loops); });
  add(level + "/exp_minus", [&loops](auto& s) { exponentials(s, loops); });
  add(level + "/silu_times", [&loops](auto& s) { silu(s, loops); });
  add(level + "/add_weighted_rows", [&loops](auto& s) { weighted_rows(s, loops); });
}

}  // namespace
}  // namespace dsr::cpu

int main(int argc, char** argv) {
  for (const dsr::CpuLevel level : dsr::kCpuLevels)
    if (level <= dsr::best_cpu_level()) dsr::cpu::add_level(level);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
