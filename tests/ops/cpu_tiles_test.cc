// The inner loops of tiles, and what puts weights and activations into their order.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/math.h"
#include "ops/cpu/inner_loops.h"
#include "ops/lanes.h"
#include "tensor/dtype.h"

namespace dsr::test {
namespace {

using cpu::FastLoops;
using cpu::FastTileArgs;
using cpu::InnerLoops;
using cpu::kGroupRows;
using cpu::kLanes;
using cpu::kTileRows;
using cpu::TileLoop;
using cpu::TileOrder;
using cpu::UnitPlaces;

std::vector<CpuLevel> levels() {
  std::vector<CpuLevel> out;
  for (const CpuLevel level : kCpuLevels)
    if (level <= best_cpu_level()) out.push_back(level);
  return out;
}

// Those that this machine can run, the emulated ones first.
std::vector<FastLoops> fast_loops() {
  std::vector<FastLoops> out;
  for (const CpuLevel level : levels()) out.push_back(cpu::inner_loops(level).fast);
  if (has_bf16_dots()) out.push_back(cpu::fast_loops_avx512bf16());
  return out;
}

// The instruction that is made for it takes subnormal numbers for 0.
TEST(CpuTiles, RoundBf16IsThatOfTheTypes) {
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

template <typename Value>
constexpr int64_t kUnit = TileOrder::kUnitBytes / int64_t{sizeof(Value)};

// Calls each(place of a piece, bytes of it, first value that it has) for one row or token.
template <typename Value, typename Each>
void for_each_piece(const TileOrder& order, const UnitPlaces& at, int64_t units, const Each& each) {
  const int64_t bytes = TileOrder::kUnitBytes / order.parts;
  for (int64_t u = 0; u < units; ++u)
    for (int64_t part = 0; part < order.parts; ++part)
      each(at.first + u * at.step_bytes + part * at.part_bytes, static_cast<size_t>(bytes),
           u * kUnit<Value> + part * bytes / int64_t{sizeof(Value)});
}

// Columns [first, first + columns) of n tokens or rows, `stride` values apart, in the order of a
// loop; `places` is token_places or row_places.
template <typename Value, typename Places>
std::vector<Value> ordered(const TileOrder& order, const std::vector<Value>& values, int64_t n,
                           int64_t stride, int64_t first, int64_t columns, const Places& places) {
  const int64_t units = columns / kUnit<Value>;
  std::vector<Value> out(static_cast<size_t>(n * columns));
  for (int64_t i = 0; i < n; ++i)
    for_each_piece<Value>(order, places(out.data(), i, units), units,
                          [&](std::byte* to, size_t bytes, int64_t k) {
                            std::memcpy(to, values.data() + i * stride + first + k, bytes);
                          });
  return out;
}
template <typename Value>
std::vector<Value> ordered_tokens(const TileOrder& order, const std::vector<Value>& x, int64_t n,
                                  int64_t stride, int64_t first, int64_t columns) {
  return ordered(order, x, n, stride, first, columns, [&](void* to, int64_t t, int64_t units) {
    return token_places(order, to, t, n, units);
  });
}
template <typename Value>
std::vector<Value> ordered_rows(const TileOrder& order, const std::vector<Value>& w, int64_t stride,
                                int64_t first, int64_t columns) {
  return ordered(
      order, w, kGroupRows, stride, first, columns,
      [&](void* to, int64_t r, int64_t units) { return row_places(order, to, r, units); });
}

// No byte is in two places, and none is left over.
TEST(CpuTiles, PlacesCoverEverythingOnce) {
  constexpr int64_t kUnits = 3;
  for (const int64_t parts : {1, 2})
    for (const int64_t rows : {1, 4, 8})
      for (int64_t tokens = 1; tokens <= 11; ++tokens) {
        const TileOrder order{.parts = parts, .rows = rows, .tokens = 3};
        const auto expect_all = [&](int64_t n, const auto& places) {
          std::vector<float> memory(static_cast<size_t>(n * kUnits * kLanes));
          for (int64_t i = 0; i < n; ++i)
            for_each_piece<float>(order, places(memory.data(), i), kUnits,
                                  [&](std::byte* to, size_t bytes, int64_t) {
                                    auto* v = reinterpret_cast<float*>(to);
                                    for (size_t b = 0; b < bytes / sizeof(float); ++b) v[b] += 1;
                                  });
          EXPECT_EQ(memory, std::vector<float>(memory.size(), 1.0f))
              << parts << " " << rows << " " << tokens;
        };
        expect_all(tokens, [&](float* to, int64_t t) {
          return token_places(order, to, t, tokens, kUnits);
        });
        expect_all(kGroupRows,
                   [&](float* to, int64_t r) { return row_places(order, to, r, kUnits); });
      }
}

// Levels pack for the instruction that is made for it as they do for their own loops.
TEST(CpuTiles, FastMathHasOneOrderALevel) {
  for (const CpuLevel level : {CpuLevel::kAvx512, CpuLevel::kAvx512Vbmi})
    EXPECT_EQ(cpu::inner_loops(level).fast.order, cpu::fast_loops_avx512bf16().order);
}

// Every code that is a number, where lanes, registers and none are full.
TEST(CpuTiles, PackedE4M3IsTheSameAsBf16) {
  std::vector<uint8_t> codes;
  for (int i = 0; i < 700; ++i)
    if (const auto code = static_cast<uint8_t>(i * 37); (code & 0x7f) != 0x7f)
      codes.push_back(code);
  for (const CpuLevel level : levels()) {
    const InnerLoops& loops = cpu::inner_loops(level);
    const TileOrder& order = loops.fast.order;
    for (const int64_t n : {std::ssize(codes) - kGroupRows, int64_t{64}, int64_t{5}}) {
      const int64_t units = ceil_div(n, kUnit<uint16_t>);
      std::vector<uint16_t> out(static_cast<size_t>(kGroupRows * units * kUnit<uint16_t>) + 1, 7);
      loops.pack_e4m3_as_bf16({.first = codes.data(),
                               .row_bytes = 1,
                               .rows = kGroupRows,
                               .columns = n,
                               .w = out.data(),
                               .next = codes.data()});
      ASSERT_EQ(out.back(), 7);
      for (int64_t r = 0; r < kGroupRows; ++r)
        for_each_piece<uint16_t>(
            order, row_places(order, out.data(), r, units), units,
            [&](const std::byte* at, size_t bytes, int64_t k) {
              for (size_t i = 0; i < bytes / 2; ++i, ++k) {
                uint16_t got;
                std::memcpy(&got, at + 2 * i, sizeof got);
                const auto code = static_cast<size_t>(r + k);
                ASSERT_EQ(got, k < n ? f32_to_bf16(e4m3_to_f32(codes[code]) * 0x1p-8f) : 0)
                    << name(level) << " row " << r << " column " << k << " of " << n;
              }
            });
    }
  }
}

// Codes that are numbers, every `every`-th subnormal.
std::vector<uint8_t> some_numbers(int64_t n, int64_t every) {
  std::vector<uint8_t> out(static_cast<size_t>(n));
  for (size_t i = 0; i < out.size(); ++i) {
    const auto random = static_cast<uint32_t>(i * 2654435761u >> 7);
    const bool subnormal = static_cast<int64_t>(i) % every == 0;
    out[i] = static_cast<uint8_t>((random & 0x80) | (subnormal ? random & 7 : 8 + random % 118));
  }
  return out;
}

// Of all columns in one call; raw activations are left in x.
template <typename Value, typename Tile>
std::vector<float> sums_of(const Tile& tile, const void* w, std::vector<Value>& x,
                           const cpu::RawActivations& raw, int64_t n, int64_t columns) {
  std::vector<float> lanes(static_cast<size_t>(n * kGroupRows * kLanes), NAN);
  std::vector<float> sums(static_cast<size_t>(n * kTileRows));
  tile({.w = w,
        .x = x.data(),
        .raw = raw,
        .tokens = n,
        .columns = columns,
        .begin = true,
        .lanes = lanes.data(),
        .sums = sums.data(),
        .sums_stride = kTileRows});
  return sums;
}

// Columns [first, first + columns) of a group's rows for the level's tile.
std::vector<float> packed(const InnerLoops& loops, const std::vector<uint16_t>& bf16,
                          int64_t stride, int64_t first, int64_t columns) {
  std::vector<float> out(static_cast<size_t>(kGroupRows * columns));
  loops.pack_bf16({.first = bf16.data() + first,
                   .row_bytes = 2 * stride,
                   .rows = kGroupRows,
                   .columns = columns,
                   .w = out.data(),
                   .next = bf16.data()});
  return out;
}

// Packed weights mean what they are, where registers and runs of them are full and are not, and
// columns behind the last one count nothing.
TEST(CpuTiles, PackedWeightsGiveTheDefinitionBitForBit) {
  constexpr int64_t kTokens = 5;
  for (const CpuLevel level : levels()) {
    const InnerLoops& loops = cpu::inner_loops(level);
    for (const int64_t columns : {1024, 200, 64, 16, 5})
      for (const int64_t every : {3, 1000}) {
        const int64_t all = round_up(columns, kLanes);
        const std::vector<uint8_t> codes = some_numbers(kGroupRows * columns, every);
        std::vector<float> values;
        std::vector<uint16_t> numbers;
        for (const uint8_t code : codes) {
          values.push_back(e4m3_to_f32(code) * 0x1p-8f);
          numbers.push_back(f32_to_bf16(values.back()));
        }
        const std::vector<float> x = some_floats(kTokens * all);
        std::vector<float> ordered_x = ordered_tokens(loops.tile.order, x, kTokens, all, 0, all);
        for (const bool e4m3 : {true, false}) {
          const bool narrow = level == CpuLevel::kAvx2;
          std::vector<float> w(static_cast<size_t>(kGroupRows * all / (narrow ? 2 : 1)) + 1, 7);
          const cpu::RowsToPack rows{
              .first = e4m3 ? static_cast<const void*>(codes.data()) : numbers.data(),
              .row_bytes = e4m3 ? columns : 2 * columns,
              .rows = kGroupRows,
              .columns = columns,
              .w = w.data(),
              .next = codes.data()};
          (e4m3 ? loops.pack_e4m3 : loops.pack_bf16)(rows);
          EXPECT_EQ(w.back(), 7) << "written behind the end";
          const std::vector<float> sums =
              sums_of(loops.tile.run, w.data(), ordered_x, {}, kTokens, all);
          for (int64_t r = 0; r < kGroupRows; ++r)
            for (int64_t t = 0; t < kTokens; ++t)
              ASSERT_EQ(sums[static_cast<size_t>(t * kTileRows + r)],
                        dot_of(values.data() + r * columns, x.data() + t * all, columns))
                  << "row " << r << " token " << t << ", " << columns << " columns, " << name(level)
                  << (e4m3 ? " e4m3" : " bf16");
        }
      }
  }
}

// Where a lane is: the sums of a run of rows with one of tokens follow one another, those of a part
// of the lanes before the next part's.
int64_t lane_of(const TileOrder& order, int64_t tokens, int64_t r, int64_t t, int64_t lane) {
  const int64_t part_lanes = kLanes / order.parts, part = lane / part_lanes;
  int64_t t0 = 0, n = 0;
  while (t0 + (n = cpu::tokens_at_once(order.tokens, tokens - t0)) <= t) t0 += n;
  const int64_t r0 = r / order.rows * order.rows;
  return ((part * tokens + t0) * kGroupRows + r0 * n + (t - t0) * order.rows + (r - r0)) *
             part_lanes +
         lane % part_lanes;
}

// Products of numbers that bf16 holds exactly, of a few bits, so that every order and every
// rounding of the sums gives the same: lanes 2 j and 2 j + 1 of each 32 columns, and nothing else.
void expect_pairs_of_columns(const FastLoops& loops, int64_t tokens) {
  constexpr int64_t kColumns = 96;
  std::vector<uint16_t> w(kGroupRows * kColumns), x(static_cast<size_t>(tokens * kColumns));
  std::vector<int> wi(w.size()), xi(x.size());
  for (size_t i = 0; i < w.size(); ++i)
    w[i] = f32_to_bf16(static_cast<float>(wi[i] = static_cast<int>(i * 7 % 31) - 15));
  for (size_t i = 0; i < x.size(); ++i)
    x[i] = f32_to_bf16(static_cast<float>(xi[i] = static_cast<int>(i * 5 % 29) - 14));
  const TileOrder& order = loops.order;
  const std::vector<uint16_t> ordered_w = ordered_rows(order, w, kColumns, 0, kColumns);
  std::vector<uint16_t> ordered_x = ordered_tokens(order, x, tokens, kColumns, 0, kColumns);
  std::vector<float> lanes(static_cast<size_t>(tokens * kGroupRows * kLanes), 1000.0f);
  std::vector<float> sums(static_cast<size_t>((tokens + 1) * kTileRows), 7.0f);
  FastTileArgs a = {.w = ordered_w.data(),
                    .x = ordered_x.data(),
                    .raw = {},
                    .tokens = tokens,
                    .columns = kColumns,
                    .begin = true,
                    .lanes = lanes.data(),
                    .sums = nullptr,
                    .sums_stride = kTileRows};
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
            want += 2 * wi[static_cast<size_t>(r * kColumns + i)] *
                    xi[static_cast<size_t>(t * kColumns + i)];
        const float got = twice[static_cast<size_t>(lane_of(order, tokens, r, t, lane))];
        ASSERT_EQ(got, static_cast<float>(want)) << r << " " << t << " " << lane;
        sum += 1.5f * got;
      }
      float& got = sums[static_cast<size_t>(t * kTileRows + r)];
      ASSERT_EQ(got, sum) << r << " " << t;
      got = 7;
    }
  for (const float s : sums) ASSERT_EQ(s, 7) << "written elsewhere";
}

TEST(CpuTiles, FastTileAddsPairsOfColumns) {
  for (const FastLoops& loops : fast_loops())
    for (int64_t tokens = 1; tokens <= 8; ++tokens) expect_pairs_of_columns(loops, tokens);
}

// Whoever keeps the lanes in two registers has to go on with both where they were.
void expect_two_calls(const InnerLoops& loops, bool any_float, int64_t tokens) {
  constexpr int64_t kFirst = 96, kColumns = 160;
  const TileLoop& loop = any_float ? loops.f32_tile : loops.tile;
  std::vector<float> w = some_floats(kGroupRows * kColumns);
  const std::vector<float> x = some_floats(tokens * kColumns);
  std::vector<uint16_t> numbers;
  for (float& v : w) {
    numbers.push_back(f32_to_bf16(v));
    if (!any_float) v = bf16_to_f32(numbers.back());
  }
  std::vector<float> lanes(static_cast<size_t>(tokens * kGroupRows * kLanes), NAN);
  std::vector<float> sums(static_cast<size_t>(tokens * kTileRows));
  for (const bool begin : {true, false}) {
    const int64_t k = begin ? 0 : kFirst, n = begin ? kFirst : kColumns - kFirst;
    const std::vector<float> here = any_float ? ordered_rows(loop.order, w, kColumns, k, n)
                                              : packed(loops, numbers, kColumns, k, n);
    std::vector<float> here_x = ordered_tokens(loop.order, x, tokens, kColumns, k, n);
    loop.run({.w = here.data(),
              .x = here_x.data(),
              .raw = {},
              .tokens = tokens,
              .columns = n,
              .begin = begin,
              .lanes = lanes.data(),
              .sums = begin ? nullptr : sums.data(),
              .sums_stride = kTileRows});
  }
  for (int64_t r = 0; r < kGroupRows; ++r)
    for (int64_t t = 0; t < tokens; ++t)
      ASSERT_EQ(sums[static_cast<size_t>(t * kTileRows + r)],
                dot_of(w.data() + r * kColumns, x.data() + t * kColumns, kColumns))
          << "row " << r << " token " << t << " of " << tokens << (any_float ? " f32" : " bf16");
}

TEST(CpuTiles, ATileInTwoCallsIsTheDefinitionBitForBit) {
  for (const CpuLevel level : levels())
    for (const bool any_float : {true, false})
      for (int64_t tokens = 1; tokens <= 8; ++tokens) {
        SCOPED_TRACE(name(level));
        expect_two_calls(cpu::inner_loops(level), any_float, tokens);
      }
}

// What `make` writes for every token, and what it multiplies: the same as raw activations, left
// there and multiplied by all rows, where blocks begin before the columns and end within and behind
// them.
template <typename Value, typename Tile, typename Make>
void expect_raw_activations(const TileOrder& order, const Tile& tile, const void* w,
                            const Make& make) {
  constexpr int64_t kColumns = 96, kFirst = 160, kTokens = 8;
  const std::vector<float> scales = some_floats(8);
  const std::vector<float> raw = some_floats(kTokens * (kFirst + kColumns));
  const float* x[kTokens];
  for (int64_t t = 0; t < kTokens; ++t) x[t] = raw.data() + t * (kFirst + kColumns);
  for (int64_t tokens = 1; tokens <= kTokens; ++tokens)
    for (const int64_t block : {32, 64, 256}) {
      std::vector<Value> made(static_cast<size_t>(kTokens * kColumns));
      for (int64_t t = 0; t < tokens; ++t)
        make(x[t] + kFirst, scales.data(), block, kFirst, kColumns, made.data() + t * kColumns);
      std::vector<Value> want = ordered_tokens(order, made, tokens, kColumns, 0, kColumns);
      std::vector<Value> got(want.size());
      const size_t size = want.size() + kColumns;  // with something behind
      for (std::vector<Value>* of : {&want, &got}) of->resize(size, Value{7});
      const std::vector<float> want_sums = sums_of(tile, w, want, {}, tokens, kColumns);
      const cpu::RawActivations from{x, scales.data(), block, kFirst};
      EXPECT_EQ(sums_of(tile, w, got, from, tokens, kColumns), want_sums) << tokens << " " << block;
      EXPECT_EQ(got, want) << tokens << " " << block;
    }
}

TEST(CpuTiles, TileScalesRawActivations) {
  for (const CpuLevel level : levels()) {
    SCOPED_TRACE(name(level));
    const InnerLoops& loops = cpu::inner_loops(level);
    std::vector<uint16_t> numbers;
    for (const float v : some_floats(kGroupRows * 96)) numbers.push_back(f32_to_bf16(v));
    const std::vector<float> w = packed(loops, numbers, 96, 0, 96);
    expect_raw_activations<float>(loops.tile.order, loops.tile.run, w.data(), loops.scale);
  }
}

TEST(CpuTiles, FastTileScalesAndRoundsRawActivations) {
  std::vector<uint16_t> w;
  for (const float v : some_floats(kGroupRows * 96)) w.push_back(f32_to_bf16(v));
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
    expect_raw_activations<uint16_t>(loops.order, loops.tile, w.data(), make);
  }
  if (!found) GTEST_SKIP() << "this machine has no avx512_bf16";
}

}  // namespace
}  // namespace dsr::test
