#include "tensor/quant.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <thread>
#include <vector>

#include "base/math.h"
#include "base/rng.h"

namespace dsr {
namespace {

// A random FP8 matrix with scales; `shift` moves both off their alignment.
struct Matrix {
  Matrix(int64_t height, int64_t width, QuantScheme scheme, DType scale_type, size_t shift)
      : n_rows(height), n_columns(width), quant(scheme) {
    PhiloxStream random(5, static_cast<uint64_t>(n_rows * n_columns));
    codes.resize(shift + static_cast<size_t>(n_rows * n_columns));
    for (auto& c : codes) {
      c = static_cast<uint8_t>(random.next_u32());
      if ((c & 0x7f) == 0x7f) c ^= 1;  // no NaN
    }
    scale_columns = ceil_div(n_columns, quant.block_columns);
    const int64_t n_scales = ceil_div(n_rows, quant.block_rows) * scale_columns;
    scales.resize(shift + static_cast<size_t>(n_scales * size_bytes(scale_type)));
    for (int64_t i = 0; i < n_scales; ++i) {
      const float uniform = random.next_uniform();
      auto* at = scales.data() + shift + i * size_bytes(scale_type);
      if (scale_type == DType::kF8E8M0) {
        *at = static_cast<uint8_t>(117 + random.next_u32() % 20);
      } else {
        from_f32(DType::kF32, &uniform, at, 1);
      }
    }
    segment.data = Tensor::of(codes.data() + shift, DType::kF8E4M3, {n_rows, n_columns});
    segment.scales = Tensor::of(scales.data() + shift, scale_type,
                                {ceil_div(n_rows, quant.block_rows), scale_columns});
  }

  // The definition, one element at a time: one float multiplication of two exact numbers.
  float value(int64_t row, int64_t column) const {
    const int64_t block = row / quant.block_rows * scale_columns + column / quant.block_columns;
    float scale = 0;
    to_f32(segment.scales.dtype,
           static_cast<const std::byte*>(segment.scales.data) +
               block * size_bytes(segment.scales.dtype),
           &scale, 1);
    return e4m3_to_f32(*segment.data.ptr<uint8_t>(row, column)) * scale;
  }

  int64_t n_rows, n_columns, scale_columns = 0;
  QuantScheme quant;
  std::vector<uint8_t> codes, scales;
  WeightSegment segment;
};

void check_all_rows(const Matrix& m) {
  std::vector<float> out(static_cast<size_t>(m.n_columns) + 1);
  for (int64_t row = 0; row < m.n_rows; ++row) {
    for (const auto& [first, count] : std::vector<std::pair<int64_t, int64_t>>{
             {0, m.n_columns}, {0, 1}, {m.n_columns - 1, 1}, {3, m.n_columns - 3}, {5, 0}}) {
      std::fill(out.begin(), out.end(), -12345.0f);
      dequantize_row(m.segment, m.quant, row, first, count, out.data());
      for (int64_t i = 0; i < count; ++i)
        ASSERT_EQ(out[static_cast<size_t>(i)], m.value(row, first + i)) << row << ", " << first + i;
      ASSERT_EQ(out[static_cast<size_t>(count)], -12345.0f) << "wrote past the end";
    }
  }
}

TEST(QuantTest, BlocksScaleTheirElements) {
  for (const DType scale_type : {DType::kF32, DType::kF8E8M0})
    for (const size_t shift : {size_t{0}, size_t{1}}) {
      check_all_rows(Matrix(256, 256, {128, 128}, scale_type, shift));
      check_all_rows(Matrix(130, 201, {128, 128}, scale_type, shift));  // ragged both ways
      check_all_rows(Matrix(80, 96, {128, 128}, scale_type, shift));    // less than a block
      check_all_rows(Matrix(9, 40, {4, 16}, scale_type, shift));
      check_all_rows(Matrix(7, 33, {1, 32}, scale_type, shift));
    }
}

TEST(QuantTest, OneElementMatrices) {
  Matrix m(1, 6, {128, 128}, DType::kF32, 0);
  float out = 0;
  dequantize_row(m.segment, m.quant, 0, 5, 1, &out);
  EXPECT_EQ(out, m.value(0, 5));
}

TEST(QuantTest, OtherTypesAreOnlyWidened) {
  const std::vector<float> values = {1, -2, 0.5f, 3, 4, 5};
  for (const DType t : {DType::kF32, DType::kBF16, DType::kF16}) {
    std::vector<uint8_t> bytes(32);
    from_f32(t, values.data(), bytes.data(), 6);
    const WeightSegment segment{Tensor::of(bytes.data(), t, {2, 3}), {}};
    float out[2] = {};
    dequantize_row(segment, {}, 1, 1, 2, out);
    EXPECT_EQ(out[0], 4);
    EXPECT_EQ(out[1], 5);
  }
}

TEST(QuantTest, AWeightIsItsSegments) {
  Matrix a(130, 40, {128, 128}, DType::kF32, 0), b(3, 40, {128, 128}, DType::kF8E8M0, 0);
  const Weight w{{a.segment, b.segment}, {128, 128}};
  EXPECT_EQ(w.rows(), 133);
  EXPECT_EQ(w.columns(), 40);
  EXPECT_EQ(w.size_bytes(), 130 * 40 + 2 * 1 * 4 + 3 * 40 + 1);
  EXPECT_EQ(w.text(), "[133, 40] in 2 segments");
  EXPECT_EQ(Weight{}.columns(), 0);
  const Weight plain{{{Tensor::of(nullptr, DType::kBF16, {5, 7}), {}}}, {}};
  EXPECT_EQ(plain.size_bytes(), 70);
}

// --- cached values
// --------------------------------------------------------------------------------

TEST(QuantTest, TheScaleMapsTheLargestValueTo448) {
  const std::vector<float> x = {0.1f, -7.0f, 3.0f};
  const float scale = e4m3_scale(x.data(), 3);
  EXPECT_EQ(scale, 7.0f / 448.0f);
  uint8_t codes[3] = {};
  quantize_e4m3(x.data(), 3, scale, codes);
  EXPECT_EQ(codes[1], 0xfe);
  float back[3] = {};
  dequantize_e4m3(codes, 3, scale, back);
  EXPECT_EQ(back[1], -7.0f);
  // Half a step of 3 mantissa bits, and one rounding of the product.
  for (int i = 0; i < 3; ++i)
    EXPECT_LE(std::abs(back[i] - x[static_cast<size_t>(i)]),
              std::abs(x[static_cast<size_t>(i)]) * (0x1p-4f + 0x1p-22f));
}

TEST(QuantTest, ZerosAndTinyValuesHaveAScale) {
  const std::vector<float> zeros(4, 0.0f);
  EXPECT_EQ(e4m3_scale(zeros.data(), 4), 1);
  EXPECT_EQ(e4m3_scale(zeros.data(), 0), 1);
  const float tiny = 0x1p-140f;
  EXPECT_EQ(e4m3_scale(&tiny, 1), 0x1p-120f);
  uint8_t code = 1;
  quantize_e4m3(&tiny, 1, 0x1p-120f, &code);
  EXPECT_EQ(code, 0);
  const float largest = std::numeric_limits<float>::max();
  const float scale = e4m3_scale(&largest, 1);
  quantize_e4m3(&largest, 1, scale, &code);
  EXPECT_TRUE(std::isfinite(e4m3_to_f32(code) * scale));
}

TEST(NanFreeRows, KnowsWholeUnitsAndTheEnd) {
  constexpr int64_t kUnit = NanFreeRows::kUnit, kRows = 3 * kUnit + 5;
  NanFreeRows known(kRows);
  EXPECT_FALSE(known.has(0, 1));
  known.add(1, 2 * kUnit - 1);  // of the first unit one row is missing, the second one is whole
  EXPECT_FALSE(known.has(1, 1));
  EXPECT_TRUE(known.has(kUnit, kUnit));
  EXPECT_FALSE(known.has(kUnit, kUnit + 1));
  known.add(3 * kUnit, 4);  // not to the end
  EXPECT_FALSE(known.has(3 * kUnit, 1));
  known.add(3 * kUnit, 5);
  EXPECT_TRUE(known.has(3 * kUnit, 5));
  known.add(0, kRows);
  EXPECT_TRUE(known.has(0, kRows));
}

TEST(NanFreeRows, ManyThreadsMayLook) {
  constexpr int64_t kUnits = 4000, kRows = kUnits * NanFreeRows::kUnit;
  NanFreeRows known(kRows);
  std::vector<std::thread> threads;
  for (int64_t t = 0; t < 4; ++t)
    threads.emplace_back([&known, t] {
      for (int64_t u = t / 2; u < kUnits; u += 2)  // two threads add the same ones
        if (const int64_t row = u * NanFreeRows::kUnit; !known.has(row, 1))
          known.add(row, NanFreeRows::kUnit);
    });
  for (std::thread& t : threads) t.join();
  EXPECT_TRUE(known.has(0, kRows));
}

}  // namespace
}  // namespace dsr
