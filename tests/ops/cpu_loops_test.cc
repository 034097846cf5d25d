// The inner loops of the cpu backend by themselves.
#include "ops/cpu/inner_loops.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "ops/formulas.h"
#include "tensor/dtype.h"

namespace dsr::test {
namespace {

using cpu::FastLoops;
using cpu::FastTileArgs;
using cpu::InnerLoops;
using cpu::kGroupColumns;
using cpu::kGroupRows;
using cpu::kLanes;
using cpu::kTileRows;

// Those that this machine can run, the emulated ones first.
std::vector<FastLoops> fast_loops() {
  std::vector<FastLoops> out;
  for (const CpuLevel level : kCpuLevels)
    if (level <= best_cpu_level()) out.push_back(cpu::inner_loops(level).fast);
  if (has_bf16_dots()) out.push_back(cpu::fast_loops_avx512bf16());
  return out;
}

// The instruction that is made for it takes subnormal numbers for 0.
TEST(CpuLoops, RoundBf16IsThatOfTheTypes) {
  std::vector<float> values;
  for (uint32_t high = 0; high < 0x10000; high += 7)
    for (const uint32_t low : {0x0u, 0x1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu})
      values.push_back(std::bit_cast<float>(high << 16 | low));
  for (const FastLoops& loops : fast_loops()) {
    const bool has_subnormals = loops.round_bf16 != cpu::fast_loops_avx512bf16().round_bf16;
    std::vector<uint16_t> out(values.size() + 1, 7);
    loops.round_bf16(values.data(), std::ssize(values), out.data());
    ASSERT_EQ(out.back(), 7);
    for (size_t i = 0; i < values.size(); ++i) {
      const float v = values[i];
      if (std::isnan(v))
        ASSERT_TRUE(std::isnan(bf16_to_f32(out[i]))) << i;
      else if (has_subnormals || std::fpclassify(v) != FP_SUBNORMAL)
        ASSERT_EQ(out[i], f32_to_bf16(v)) << v;
      else
        ASSERT_EQ(out[i], f32_to_bf16(std::copysign(0.0f, v))) << v;
    }
  }
}

// Every code that is a number, where lanes, registers and none are full.
TEST(CpuLoops, DecodedE4M3IsTheSameAsBf16) {
  std::vector<uint8_t> codes;
  for (int i = 0; i < 700; ++i)
    if (const auto code = static_cast<uint8_t>(i * 37); (code & 0x7f) != 0x7f)
      codes.push_back(code);
  for (const CpuLevel level : kCpuLevels) {
    if (level > best_cpu_level()) continue;
    for (const int64_t n : {std::ssize(codes), int64_t{64}, int64_t{5}}) {
      std::vector<uint16_t> out(static_cast<size_t>(n) + 1, 7);
      cpu::inner_loops(level).decode_e4m3_as_bf16(codes.data(), n, out.data());
      ASSERT_EQ(out.back(), 7);
      for (size_t i = 0; i + 1 < out.size(); ++i)
        ASSERT_EQ(out[i], f32_to_bf16(e4m3_to_f32(codes[i]) * 0x1p-8f)) << name(level) << " " << i;
    }
  }
}

std::vector<float> arguments() {
  std::vector<float> out;
  for (float x = -86.5f; x < 88; x += 0.0137f) out.push_back(x);
  for (const float x : {0.0f, -0.0f, 1e-30f, -1e-30f, 0.34657f, 0.34658f, -0.34658f})
    out.push_back(x);
  return out;
}

// Two ulps: the polynomial's steps round at the size of the result, most of them far below it.
TEST(CpuLoops, ExponentialsAreWithinTwoUlps) {
  const std::vector<float> x = arguments();
  std::vector<float> before;
  for (const CpuLevel level : kCpuLevels) {
    if (level > best_cpu_level()) continue;
    std::vector<float> out(x.size());
    cpu::inner_loops(level).exp_minus(x.data(), 0, std::ssize(x), out.data());
    for (size_t i = 0; i < x.size(); ++i) {
      const double want = std::exp(static_cast<double>(x[i]));
      ASSERT_NEAR(out[i] / want, 1, 0x1p-22) << x[i] << " " << name(level);
    }
    if (!before.empty()) {
      EXPECT_EQ(out, before) << name(level);
    }
    before = out;
  }
}

TEST(CpuLoops, ExponentialsOfTheEdges) {
  const float inf = std::numeric_limits<float>::infinity();
  // A NaN whose bits are anything.
  const std::vector<float> x = {-inf,
                                -1e30f,
                                -100,
                                1e30f,
                                inf,
                                std::bit_cast<float>(0x7fc00001u),
                                std::bit_cast<float>(0xffabcdefu),
                                7};
  for (const CpuLevel level : kCpuLevels) {
    if (level > best_cpu_level()) continue;
    std::vector<float> out(x.size() + 1, -1.0f);
    cpu::inner_loops(level).exp_minus(x.data(), 7, std::ssize(x), out.data());
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_GE(out[i], 0) << i;
      EXPECT_LT(out[i], 0x1p-124f) << i;
    }
    for (size_t i = 3; i < 5; ++i) EXPECT_NEAR(out[i] / std::exp(88.0), 1, 0x1p-22) << i;
    for (size_t i = 5; i < 7; ++i) EXPECT_TRUE(std::isnan(out[i])) << i;
    EXPECT_EQ(out[7], 1);
    EXPECT_EQ(out[8], -1) << "written behind the end";
  }
}

// The quotient and the product round once each, beside the exponential.
TEST(CpuLoops, SiluTimesIsItsFormula) {
  const std::vector<float> gate = arguments();
  std::vector<float> up(gate.size()), before;
  for (size_t i = 0; i < up.size(); ++i) up[i] = static_cast<float>(i % 17) - 8.25f;
  for (const CpuLevel level : kCpuLevels) {
    if (level > best_cpu_level()) continue;
    std::vector<float> out(gate.size());
    cpu::inner_loops(level).silu_times(gate.data(), up.data(), std::ssize(gate), out.data());
    for (size_t i = 0; i < gate.size(); ++i) {
      const double want = silu(gate[i]) * static_cast<double>(up[i]);
      ASSERT_NEAR(out[i], want, std::fabs(want) * 0x1.8p-22 + 1e-35) << gate[i] << name(level);
    }
    if (!before.empty()) {
      EXPECT_EQ(out, before) << name(level);
    }
    before = out;
  }
}

// Every code but NaN at every place of the runs that are decoded at once, and in a part of one.
TEST(CpuLoops, DecodedCodesAreTheirValues) {
  constexpr int64_t kPlaces = 64, kCodes = 256, kPart = 7;
  std::vector<uint8_t> codes(kPlaces + kCodes + kPart);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i);
  for (const CpuLevel level : kCpuLevels) {
    if (level > best_cpu_level()) continue;
    for (int64_t first = 0; first < kPlaces; ++first) {
      std::vector<float> out(kCodes + kPart + 1, -1.0f);
      cpu::inner_loops(level).decode_e4m3(codes.data() + first, kCodes + kPart, out.data());
      for (int64_t i = 0; i < kCodes + kPart; ++i) {
        const uint8_t code = codes[static_cast<size_t>(first + i)];
        if ((code & 0x7f) == 0x7f) continue;
        ASSERT_EQ(std::bit_cast<uint32_t>(out[static_cast<size_t>(i)]),
                  std::bit_cast<uint32_t>(e4m3_to_f32(code) * 0x1p-8f))
            << int{code} << " at " << i << " " << name(level);
      }
      EXPECT_EQ(out.back(), -1) << "written behind the end";
    }
  }
}

// Codes of all sizes; from the second row of four on one in `every` is subnormal.
std::vector<uint8_t> some_codes(int64_t rows, int64_t columns, int64_t every) {
  std::vector<uint8_t> out(static_cast<size_t>(rows * columns));
  uint32_t random = 1;
  for (size_t i = 0; i < out.size(); ++i) {
    random = random * 1664525u + 1013904223u;
    const uint32_t sign = random >> 31 << 7,
                   row = static_cast<uint32_t>(i / static_cast<size_t>(columns));
    const bool subnormal = row % 4 > 0 && static_cast<int64_t>(random >> 8) % every == 0;
    out[i] = static_cast<uint8_t>(sign | (subnormal ? random >> 28 & 7 : 8 + (random >> 16) % 118));
  }
  return out;
}

std::vector<float> some_floats(int64_t n) {
  std::vector<float> out(static_cast<size_t>(n));
  for (size_t i = 0; i < out.size(); ++i)
    out[i] = static_cast<float>((i * 7919) % 1009) / 500.0f - 1.0f;
  return out;
}

// By the definition of inner_loops.h.
float dot_of(const float* w, const float* x, int64_t n) {
  float lanes[kLanes] = {};
  for (int64_t k = 0; k < n; ++k) lanes[k % kLanes] = std::fma(w[k], x[k], lanes[k % kLanes]);
  for (int64_t half = kLanes / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

// Of `columns` columns with 1, 2, ... tokens, at all levels.
void expect_dots(int64_t columns, int64_t every, DType dtype) {
  constexpr int64_t kSteps = 2, kRows = kSteps * cpu::kDotRows;
  const std::vector<float> x = some_floats(cpu::kDotTokens * columns);
  const std::vector<uint8_t> codes = some_codes(kRows, columns, every);
  std::vector<float> values;
  std::vector<uint16_t> numbers;
  for (const uint8_t code : codes) {
    values.push_back(e4m3_to_f32(code) * 0x1p-8f);
    numbers.push_back(f32_to_bf16(values.back()));
  }
  const void* rows = dtype == DType::kF32    ? static_cast<const void*>(values.data())
                     : dtype == DType::kBF16 ? static_cast<const void*>(numbers.data())
                                             : codes.data();
  for (const CpuLevel level : kCpuLevels) {
    if (level > best_cpu_level()) continue;
    for (int64_t tokens = 1; tokens <= cpu::kDotTokens; ++tokens) {
      std::vector<float> out(static_cast<size_t>(kRows * tokens));
      cpu::DotArgs a{};
      a.row_bytes = columns * size_bytes(dtype);
      for (int64_t r = 0; r < cpu::kDotRows; ++r) {
        a.rows[r] = a.next[r] = static_cast<const std::byte*>(rows) + r * kSteps * a.row_bytes;
        a.out[r] = out.data() + r * kSteps * tokens;
      }
      a.steps = a.end = kSteps;
      a.tokens = tokens;
      a.columns = columns;
      a.row_stride = tokens;
      a.token_stride = 1;
      for (int64_t t = 0; t < tokens; ++t) a.x[t] = x.data() + t * columns;
      const InnerLoops& loops = cpu::inner_loops(level);
      (dtype == DType::kF32    ? loops.dots_f32
       : dtype == DType::kBF16 ? loops.dots_bf16
                               : loops.dots_e4m3)(a);
      for (int64_t r = 0; r < kRows; ++r)
        for (int64_t t = 0; t < tokens; ++t)
          ASSERT_EQ(out[static_cast<size_t>(r * tokens + t)],
                    dot_of(values.data() + r * columns, a.x[t], columns))
              << "row " << r << " token " << t << " of " << tokens << ", " << columns
              << " columns, " << name(level) << " " << name(dtype);
    }
  }
}

TEST(CpuLoops, DotsOfCodesAndNumbersAreTheirDefinitionBitForBit) {
  // A last register that is not full; whole ones, but not of 64 columns; some and several parts of
  // what is decoded at once. With few subnormal codes most runs of 64 have none.
  for (const int64_t columns : {3 * 64 + 2 * int64_t{kLanes} + 5, 64 + 2 * int64_t{kLanes},
                                64 + int64_t{kLanes}, int64_t{64}, int64_t{2 * 512 + 64}})
    for (const DType dtype : {DType::kF8E4M3, DType::kBF16, DType::kF32})
      for (const int64_t every : {3, 100, 1000}) expect_dots(columns, every, dtype);
}

TEST(CpuLoops, SumsOfStoredRowsAreTheirDefinitionBitForBit) {
  constexpr int64_t kRows = 7, kBlock = cpu::kAddColumns, kColumns = 3 * kBlock, kTokens = 2;
  const std::vector<uint8_t> codes = some_codes(kRows, kColumns, 20);
  std::vector<uint16_t> numbers;
  for (const uint8_t code : codes) numbers.push_back(f32_to_bf16(e4m3_to_f32(code)));
  const std::vector<float> x = some_floats(3 * kTokens * kRows);
  const std::vector<float> before = some_floats(kTokens * kColumns);
  for (const bool e4m3 : {true, false}) {
    std::vector<float> want = before;
    for (int64_t t = 0; t < kTokens; ++t)
      for (int64_t c = 0; c < kColumns; ++c)
        for (int64_t s = 0; s < kRows; ++s) {
          const float w = e4m3_to_f32(codes[static_cast<size_t>(s * kColumns + c)]);
          float& sum = want[static_cast<size_t>(t * kColumns + c)];
          sum = std::fma(x[static_cast<size_t>((c / kBlock * kTokens + t) * kRows + s)],
                         e4m3 ? w * 0x1p-8f : w, sum);
        }
    for (const CpuLevel level : kCpuLevels) {
      if (level > best_cpu_level()) continue;
      const InnerLoops& loops = cpu::inner_loops(level);
      std::vector<float> sum = before;
      const InnerLoops::StoredRows a = {
          .rows = e4m3 ? static_cast<const void*>(codes.data()) : numbers.data(),
          .row_bytes = e4m3 ? kColumns : 2 * kColumns,
          .n = kRows,
          .columns = kColumns,
          .block_columns = kBlock,
          .x = x.data(),
          .tokens = kTokens,
          .sum = sum.data(),
          .sum_stride = kColumns,
          .near = 0,
          .far = kColumns};
      (e4m3 ? loops.add_e4m3_rows : loops.add_bf16_rows)(a);
      EXPECT_EQ(sum, want) << name(level) << (e4m3 ? " e4m3" : " bf16");
    }
  }
}

// Products of numbers that bf16 holds exactly, of a few bits, so that every order and every
// rounding of the sums gives the same: lanes 2 j and 2 j + 1 of each 32 columns, and nothing else.
void expect_pairs_of_columns(const FastLoops& loops, int64_t tokens) {
  constexpr int64_t kColumns = 96, kStride = 112;
  std::vector<uint16_t> w(kGroupRows * kGroupColumns), x(static_cast<size_t>(tokens * kStride));
  std::vector<int> wi(w.size()), xi(x.size());
  for (size_t i = 0; i < w.size(); ++i)
    w[i] = f32_to_bf16(static_cast<float>(wi[i] = static_cast<int>(i * 7 % 31) - 15));
  for (size_t i = 0; i < x.size(); ++i)
    x[i] = f32_to_bf16(static_cast<float>(xi[i] = static_cast<int>(i * 5 % 29) - 14));
  std::vector<float> lanes(static_cast<size_t>(tokens * kGroupRows * kLanes), 1000.0f);
  std::vector<float> sums(static_cast<size_t>((tokens + 1) * kTileRows), 7.0f);
  FastTileArgs a = {.w = w.data(),
                    .x = x.data(),
                    .x_stride = kStride,
                    .raw = {},
                    .tokens = tokens,
                    .columns = kColumns,
                    .begin = true,
                    .lanes = lanes.data(),
                    .sums = nullptr,
                    .sums_stride = kTileRows,
                    .next = {w.data(), kGroupColumns, kGroupRows, 2 * kColumns}};
  loops.tile(a);
  a.begin = false;  // the same once more
  loops.tile(a);
  const std::vector<float> twice = lanes;
  a.sums = sums.data();  // and a third time, for their sums
  loops.tile(a);
  for (int64_t r = 0; r < kGroupRows; ++r)
    for (int64_t t = 0; t < tokens; ++t) {
      float sum = 0;  // exact in any order
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        int want = 0;
        for (int64_t k = 2 * lane; k < kColumns; k += 2 * kLanes)
          for (const int64_t i : {k, k + 1})
            want += 2 * wi[static_cast<size_t>(r * kGroupColumns + i)] *
                    xi[static_cast<size_t>(t * kStride + i)];
        const auto at = static_cast<size_t>((t * kGroupRows + r) * kLanes + lane);
        ASSERT_EQ(twice[at], static_cast<float>(want)) << r << " " << t << " " << lane;
        sum += 1.5f * twice[at];
      }
      float& got = sums[static_cast<size_t>(t * kTileRows + r)];
      ASSERT_EQ(got, sum) << r << " " << t;
      got = 7;
    }
  for (const float s : sums) ASSERT_EQ(s, 7) << "written elsewhere";
}

TEST(CpuLoops, FastTileAddsPairsOfColumns) {
  for (const FastLoops& loops : fast_loops())
    for (int64_t tokens = 1; tokens <= 8; ++tokens) expect_pairs_of_columns(loops, tokens);
}

// Whoever keeps the lanes in two registers has to go on with both where they were.
TEST(CpuLoops, ATileInTwoCallsIsTheDefinitionBitForBit) {
  constexpr int64_t kFirst = 96, kColumns = 160, kStride = 176, kTokens = 8;
  const std::vector<float> w = some_floats(kGroupRows * kGroupColumns);
  std::vector<float> x = some_floats(kTokens * kStride);
  for (const CpuLevel level : kCpuLevels) {
    if (level > best_cpu_level()) continue;
    for (int64_t tokens = 1; tokens <= kTokens; ++tokens) {
      std::vector<float> lanes(static_cast<size_t>(tokens * kGroupRows * kLanes), NAN);
      std::vector<float> sums(static_cast<size_t>(tokens * kTileRows));
      for (const bool begin : {true, false}) {
        const int64_t k = begin ? 0 : kFirst;
        cpu::inner_loops(level).tile({.w = w.data() + k,
                                      .x = x.data() + k,
                                      .x_stride = kStride,
                                      .raw = {},
                                      .tokens = tokens,
                                      .columns = begin ? kFirst : kColumns - kFirst,
                                      .begin = begin,
                                      .lanes = lanes.data(),
                                      .sums = begin ? nullptr : sums.data(),
                                      .sums_stride = kTileRows,
                                      .next = {}});
      }
      for (int64_t r = 0; r < kGroupRows; ++r)
        for (int64_t t = 0; t < tokens; ++t)
          ASSERT_EQ(sums[static_cast<size_t>(t * kTileRows + r)],
                    dot_of(w.data() + r * kGroupColumns, x.data() + t * kStride, kColumns))
              << "row " << r << " token " << t << " of " << tokens << ", " << name(level);
    }
  }
}

// What `make` writes for every token, and what it multiplies: the same as raw activations, left
// there and multiplied by all rows, where blocks begin before the columns and end within and behind
// them.
template <typename Value, typename Tile, typename Make>
void expect_raw_activations(const Tile& tile, const std::vector<Value>& w, const Make& make) {
  constexpr int64_t kColumns = 96, kStride = 112, kFirst = 160, kTokens = 8;
  const std::vector<float> scales = some_floats(8);
  const std::vector<float> raw = some_floats(kTokens * (kFirst + kColumns));
  const float* x[kTokens];
  for (int64_t t = 0; t < kTokens; ++t) x[t] = raw.data() + t * (kFirst + kColumns);
  for (int64_t tokens = 1; tokens <= kTokens; ++tokens)
    for (const int64_t block : {32, 64, 256}) {
      const auto sums_of = [&](std::vector<Value>& there, const cpu::RawActivations& from) {
        std::vector<float> lanes(static_cast<size_t>(tokens * kGroupRows * kLanes));
        std::vector<float> sums(static_cast<size_t>(tokens * kTileRows));
        tile({.w = w.data(),
              .x = there.data(),
              .x_stride = kStride,
              .raw = from,
              .tokens = tokens,
              .columns = kColumns,
              .begin = true,
              .lanes = lanes.data(),
              .sums = sums.data(),
              .sums_stride = kTileRows,
              .next = {}});
        return sums;
      };
      std::vector<Value> want(static_cast<size_t>(kTokens * kStride)), got = want;
      for (int64_t t = 0; t < tokens; ++t)
        make(x[t] + kFirst, scales.data(), block, kFirst, kColumns, want.data() + t * kStride);
      const std::vector<float> want_sums = sums_of(want, {});
      EXPECT_EQ(sums_of(got, {x, scales.data(), block, kFirst}), want_sums)
          << tokens << " " << block;
      EXPECT_EQ(got, want) << tokens << " " << block;
    }
}

TEST(CpuLoops, TileScalesRawActivations) {
  const std::vector<float> w = some_floats(kGroupRows * kGroupColumns);
  for (const CpuLevel level : kCpuLevels) {
    if (level > best_cpu_level()) continue;
    const InnerLoops& loops = cpu::inner_loops(level);
    expect_raw_activations(loops.tile, w, loops.scale);
  }
}

TEST(CpuLoops, FastTileScalesAndRoundsRawActivations) {
  const std::vector<float> values = some_floats(kGroupRows * kGroupColumns);
  std::vector<uint16_t> w;
  for (const float v : values) w.push_back(f32_to_bf16(v));
  bool found = false;
  for (const FastLoops& loops : fast_loops()) {
    if (!loops.takes_raw) continue;
    found = true;
    const auto make = [&](const float* x, const float* scales, int64_t block, int64_t first,
                          int64_t n, uint16_t* out) {
      std::vector<float> scaled(static_cast<size_t>(n));
      cpu::inner_loops(best_cpu_level()).scale(x, scales, block, first, n, scaled.data());
      loops.round_bf16(scaled.data(), n, out);
    };
    expect_raw_activations(loops.tile, w, make);
  }
  if (!found) GTEST_SKIP() << "this machine has no avx512_bf16";
}

}  // namespace
}  // namespace dsr::test
