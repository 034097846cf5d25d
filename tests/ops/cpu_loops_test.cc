// The inner loops of the cpu backend by themselves.
#include "ops/cpu/inner_loops.h"

#include <gtest/gtest.h>
#include <xmmintrin.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "base/math.h"
#include "ops/cpu/add_rows.h"
#include "ops/formulas.h"
#include "ops/lanes.h"
#include "tensor/dtype.h"

namespace dsr::test {
namespace {

using cpu::InnerLoops;
using cpu::kLanes;

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

// Activations as raised dots take them, of rows whose scale is 1 for 2^-8 of the codes' values.
class RaisedTokens {
 public:
  RaisedTokens(const InnerLoops& loops, const float* x, int64_t tokens, int64_t columns,
               int64_t block_columns = 128)
      : stride_(round_up(columns, kLanes)),
        places_(static_cast<size_t>(tokens * stride_ / kLanes)) {
    const std::vector<float> scales(static_cast<size_t>(ceil_div(columns, block_columns)), 0x1p-8f);
    std::vector<const float*> of_token;
    for (int64_t t = 0; t < tokens; ++t) of_token.push_back(x + t * columns);
    raised_ = loops.raised.raise({.x = of_token.data(),
                                  .scales = scales.data(),
                                  .block_columns = block_columns,
                                  .columns = columns,
                                  .tokens = tokens,
                                  .all = places_[0].v,
                                  .stride = stride_});
  }
  bool raised() const { return raised_; }
  const float* token(int64_t t) const {
    return places_[static_cast<size_t>(t * stride_ / kLanes)].v;
  }

 private:
  struct Place {
    alignas(64) float v[kLanes];
  };
  int64_t stride_;
  std::vector<Place> places_;
  bool raised_;
};

// Of `columns` columns with 1, 2, ... tokens, at all levels.
void expect_dots(int64_t columns, int64_t every, DType dtype) {
  constexpr int64_t kSteps = 9, kRows = kSteps * cpu::kDotRows;
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
      a.steps = kSteps;
      a.tokens = tokens;
      a.columns = columns;
      a.row_stride = tokens;
      a.token_stride = 1;
      for (int64_t t = 0; t < tokens; ++t) a.x[t] = x.data() + t * columns;
      const InnerLoops& loops = cpu::inner_loops(level);
      const auto expect_sums = [&](const char* way) {
        for (int64_t r = 0; r < kRows; ++r)
          for (int64_t t = 0; t < tokens; ++t)
            ASSERT_EQ(std::bit_cast<uint32_t>(out[static_cast<size_t>(r * tokens + t)]),
                      std::bit_cast<uint32_t>(
                          dot_of(values.data() + r * columns, x.data() + t * columns, columns)))
                << "row " << r << " token " << t << " of " << tokens << ", " << columns
                << " columns, " << name(level) << " " << name(dtype) << way;
      };
      (dtype == DType::kF32    ? loops.dots_f32
       : dtype == DType::kBF16 ? loops.dots_bf16
                               : loops.dots_e4m3)(a);
      expect_sums("");
      if (dtype != DType::kF8E4M3 || tokens > loops.raised.tokens) continue;
      const RaisedTokens raised(loops, x.data(), tokens, columns);
      EXPECT_TRUE(raised.raised() || (tokens > 5 && columns % kLanes != 0)) << tokens;
      if (!raised.raised()) continue;
      for (int64_t t = 0; t < tokens; ++t) a.x[t] = raised.token(t);
      std::fill(out.begin(), out.end(), -1.0f);
      loops.raised.dots_e4m3(a);
      expect_sums(" raised");
    }
  }
}

TEST(CpuLoops, DotsOfCodesAndNumbersAreTheirDefinitionBitForBit) {
  // A last register that is not full; whole ones, but not of 64 columns; some and several parts of
  // what is decoded at once; blocks of unequal length of what is packed. With few subnormal codes
  // most runs of 64 have none.
  for (const int64_t columns :
       {3 * 64 + 2 * int64_t{kLanes} + 5, 64 + 2 * int64_t{kLanes}, 64 + int64_t{kLanes},
        int64_t{64}, int64_t{2 * 512 + 64}, 1024 + int64_t{kLanes}})
    for (const DType dtype : {DType::kF8E4M3, DType::kBF16, DType::kF32})
      for (const int64_t every : {3, 100, 1000}) expect_dots(columns, every, dtype);
}

// Raised dots are for CPUs that multiply subnormal numbers as fast as others: nullptr elsewhere.
const InnerLoops* loops_that_raise() {
  if (best_cpu_level() < CpuLevel::kAvx2) return nullptr;
  const InnerLoops& loops = cpu::inner_loops(CpuLevel::kAvx2);
  return loops.raised.tokens > 0 ? &loops : nullptr;
}

// What they cannot take is refused, wherever it is; the most that they can is not.
TEST(CpuLoops, ActivationsThatCannotBeRaisedAreRefused) {
  const InnerLoops* loops = loops_that_raise();
  if (loops == nullptr) GTEST_SKIP() << "no AVX2 here, or it is slow with subnormal numbers";
  const float most = std::nextafter(0x1p16f, 0.0f), nan = std::numeric_limits<float>::quiet_NaN();
  for (const int64_t tokens : {1, 6}) {
    const int64_t columns = 3 * kLanes + (tokens == 1 ? 5 : 0);
    std::vector<float> x(static_cast<size_t>(tokens * columns), 1);
    for (float& place : x) {
      const auto is_raised = [&](float v, int64_t block_columns = kLanes) {
        place = v;
        const RaisedTokens raised(*loops, x.data(), tokens, columns, block_columns);
        place = 1;
        return raised.raised();
      };
      EXPECT_TRUE(is_raised(most) && is_raised(-most) && is_raised(0));
      EXPECT_FALSE(is_raised(0x1p16f) || is_raised(-0x1p16f) || is_raised(nan) || is_raised(-nan) ||
                   is_raised(std::numeric_limits<float>::infinity()));
      EXPECT_FALSE(is_raised(1, 24)) << "a block ends within 16 columns";
    }
  }
}

// Where whoever calls has subnormal numbers count as zero, codes that are must not.
TEST(CpuLoops, NothingIsRaisedWhereSubnormalsCountAsZero) {
  const InnerLoops* loops = loops_that_raise();
  if (loops == nullptr) GTEST_SKIP() << "no AVX2 here, or it is slow with subnormal numbers";
  const float x[kLanes] = {1};
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x40);
  const bool raised = RaisedTokens(*loops, x, 1, kLanes).raised();
  _mm_setcsr(before);
  EXPECT_FALSE(raised);
  EXPECT_TRUE(RaisedTokens(*loops, x, 1, kLanes).raised());
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

// A NaN weight makes sums of its column NaN and no other, whether or not rows are added as they are
// stored, and whether or not it is remembered that others are none.
TEST(CpuLoops, ANanAmongAddedRowsStaysInItsColumn) {
  constexpr int64_t kRows = 64, kColumns = 2 * cpu::kAddColumns, kNanRow = 5, kNanColumn = 70;
  std::vector<uint8_t> codes = some_codes(kRows, kColumns, 20);
  float scale = 0.5f;
  WeightSegment segment{Tensor::of(codes.data(), DType::kF8E4M3, {kRows, kColumns}),
                        Tensor::of(&scale, DType::kF32, {1, 1})};
  const QuantScheme quant{kRows, kColumns};
  for (const int64_t tokens : {1, 3}) {
    const std::vector<float> x = some_floats(tokens * kRows);
    for (const CpuLevel level : kCpuLevels) {
      if (level > best_cpu_level()) continue;
      const auto sums = [&] {
        std::vector<float> sum(static_cast<size_t>(tokens * kColumns)), memory;
        cpu::add_rows(cpu::inner_loops(level),
                      {.segment = segment,
                       .quant = quant,
                       .first_row = 0,
                       .rows = kRows,
                       .x = x.data(),
                       .x_stride = kRows,
                       .tokens = tokens,
                       .sum = sum.data(),
                       .sum_stride = kColumns,
                       .next_row = 0},
                      memory);
        return sum;
      };
      uint8_t& code = codes[kNanRow * kColumns + kNanColumn];
      const uint8_t before = code;
      const std::vector<float> want = sums();
      NanFreeRows nan_free(kRows);
      code = 0xff;
      for (const int times : {0, 1, 2}) {
        segment.nan_free = times > 0 ? &nan_free : nullptr;
        const std::vector<float> got = sums();
        EXPECT_EQ(nan_free.has(NanFreeRows::kUnit, NanFreeRows::kUnit), times > 0);
        EXPECT_FALSE(nan_free.has(0, NanFreeRows::kUnit));
        for (int64_t i = 0; i < tokens * kColumns; ++i) {
          const auto at = static_cast<size_t>(i);
          if (i % kColumns == kNanColumn)
            EXPECT_TRUE(std::isnan(got[at])) << name(level);
          else
            EXPECT_EQ(got[at], want[at]) << name(level) << " " << i << " of " << tokens;
        }
      }
      segment.nan_free = nullptr;
      code = before;
    }
  }
}

}  // namespace
}  // namespace dsr::test
