// Frequencies and softmax scales of the released checkpoints: the golden table of models.md 2.4.
#include "model/rope_table.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/cards.h"
#include "support/tiny_checkpoint.h"

namespace dsr::test {
namespace {

struct Row {
  const char* name;
  double rope_theta, factor, beta_fast, beta_slow, mscale;  // of mscale and mscale_all_dim
  double inv_freq_10, inv_freq_16, inv_freq_31, m, softmax_scale;
};

constexpr Row kRows[] = {
    {"deepseek-v2-lite", 1e4, 40, 32, 1, 0.707, 0.0562341325, 0.0055, 3.33380358e-06, 1.260803777,
     0.114721387},
    {"deepseek-v3", 1e4, 40, 32, 1, 1, 0.0562341325, 0.0055, 3.33380358e-06, 1.368887945,
     0.135233779},
    {"kimi-k2-instruct", 5e4, 32, 1, 1, 1, 0.0340072782, 0.00447213595, 8.76441291e-07, 1.346573590,
     0.130860800},
};

ModelConfig config_of(const Row& r) {
  ModelConfig c;
  c.qk_nope_head_dim = 128;
  c.qk_rope_head_dim = 64;
  c.rope_theta = r.rope_theta;
  c.rope_scaling = {.type = RopeScalingType::kYarn,
                    .factor = r.factor,
                    .original_max_position_embeddings = 4096,
                    .beta_fast = r.beta_fast,
                    .beta_slow = r.beta_slow,
                    .mscale = r.mscale,
                    .mscale_all_dim = r.mscale};
  return c;
}

// The table has nine or ten significant digits.
void expect_row(const ModelConfig& c, const Row& r) {
  const std::vector<double> f = rope_inv_freq(c);
  ASSERT_EQ(f.size(), 32u);
  EXPECT_NEAR(f[10], r.inv_freq_10, 1e-8 * r.inv_freq_10) << r.name;
  EXPECT_NEAR(f[16], r.inv_freq_16, 1e-8 * r.inv_freq_16) << r.name;
  EXPECT_NEAR(f[31], r.inv_freq_31, 1e-8 * r.inv_freq_31) << r.name;
  EXPECT_NEAR(softmax_scale(c), r.softmax_scale, 1e-8 * r.softmax_scale) << r.name;
  EXPECT_NEAR(softmax_scale(c) * std::sqrt(192.0), r.m * r.m, 1e-8) << r.name;
}

TEST(RopeTable, GoldenTable) {
  for (const Row& r : kRows) expect_row(config_of(r), r);
}

// V2 and V2.5 differ in mscale alone.
TEST(RopeTable, ReleasedConfigs) {
  for (const char* name : {"deepseek-v2-lite", "deepseek-v2", "deepseek-coder-v2-lite"})
    expect_row(parse_config(card(name), {}), kRows[0]);
  for (const char* name : {"deepseek-v2.5", "deepseek-v3", "deepseek-r1", "deepseek-v3.1"})
    expect_row(parse_config(card(name), {}), kRows[1]);
  expect_row(parse_config(card("kimi-k2-instruct"), {}), kRows[2]);
}

// models.md 2.5.
TEST(RopeTable, Llama3Scaling) {
  for (const char* name : {"r1-distill-llama-8b", "r1-distill-llama-70b"}) {
    const ModelConfig c = parse_config(card(name), {});
    const std::vector<double> f = rope_inv_freq(c);
    ASSERT_EQ(f.size(), 64u);
    for (size_t i = 0; i < f.size(); ++i) {
      const double plain = std::pow(5e5, -static_cast<double>(i) / 64);
      if (i < 29)
        EXPECT_DOUBLE_EQ(f[i], plain) << i;
      else if (i >= 35)
        EXPECT_DOUBLE_EQ(f[i], plain / 8) << i;
      else
        EXPECT_TRUE(f[i] < plain && f[i] > plain / 8) << i;
    }
    EXPECT_NEAR(f[28], 0.00321144599, 1e-8 * f[28]);
    EXPECT_NEAR(f[29], 0.00216657076, 1e-8 * f[29]);
    EXPECT_NEAR(f[33], 0.00031269375, 1e-8 * f[33]);
    EXPECT_NEAR(f[35], 9.55621235e-05, 1e-8 * f[35]);
    EXPECT_DOUBLE_EQ(softmax_scale(c), 1 / std::sqrt(128.0));  // no correction
  }
}

// models.md 2.6.
TEST(RopeTable, LinearScaling) {
  const ModelConfig c = parse_config(card("deepseek-coder-6.7b"), {});
  const std::vector<double> f = rope_inv_freq(c);
  ASSERT_EQ(f.size(), 64u);
  for (size_t i = 0; i < f.size(); ++i)
    EXPECT_DOUBLE_EQ(f[i], std::pow(1e5, -static_cast<double>(i) / 64) / 4) << i;
  EXPECT_DOUBLE_EQ(softmax_scale(c), 1 / std::sqrt(128.0));
}

TEST(RopeTable, RampIsBetweenItsCorrections) {
  // V3: dimensions 0..10 keep their frequency, 23 and above are divided by 40.
  const std::vector<double> f = rope_inv_freq(config_of(kRows[1]));
  for (size_t i = 0; i < f.size(); ++i) {
    const double plain = std::pow(1e4, -static_cast<double>(i) / 32);
    if (i <= 10)
      EXPECT_DOUBLE_EQ(f[i], plain) << i;
    else if (i >= 23)
      EXPECT_DOUBLE_EQ(f[i], plain / 40) << i;
    else
      EXPECT_TRUE(f[i] < plain && f[i] > plain / 40) << i;
  }
  // Kimi-K2: beta_fast == beta_slow, a ramp of one step.
  const std::vector<double> k = rope_inv_freq(config_of(kRows[2]));
  EXPECT_DOUBLE_EQ(k[19], std::pow(5e4, -19.0 / 32));
  EXPECT_DOUBLE_EQ(k[20], std::pow(5e4, -20.0 / 32) / 32);
}

TEST(RopeTable, NoScaling) {
  const ModelConfig c = TinyCheckpoint("v3-noqlora").config();
  const std::vector<double> f = rope_inv_freq(c);
  for (size_t i = 0; i < f.size(); ++i)
    EXPECT_DOUBLE_EQ(f[i], std::pow(5e4, -static_cast<double>(i) / 6)) << i;
  EXPECT_DOUBLE_EQ(softmax_scale(c), 1 / std::sqrt(32.0));
}

TEST(RopeTable, CosAndSinOfScaledFrequenciesAreNotScaled) {
  Exec exec(Backend::kReference);
  const ModelConfig c = TinyCheckpoint("llama-llama3").config();
  const RopeTables tables(exec, c, 160);
  const std::vector<double> f = rope_inv_freq(c);
  ASSERT_EQ(tables.table().cos.shape, (Shape{160, 10}));
  for (size_t i = 0; i < f.size(); ++i)
    EXPECT_FLOAT_EQ(tables.table().cos.ptr<float>(159)[i],
                    static_cast<float>(std::cos(159 * f[i])));
}

TEST(RopeTable, CosAndSinCarryTheQuotientOfTheMscales) {
  Exec exec(Backend::kReference);
  const ModelConfig c = TinyCheckpoint("v3-bf16").config();  // factor 8, mscale 0.707 and 1
  const RopeTables tables(exec, c, 200);
  const std::vector<double> f = rope_inv_freq(c);
  const double m = (0.0707 * std::log(8.0) + 1) / (0.1 * std::log(8.0) + 1);
  for (const int64_t p : {0, 1, 31, 199}) {
    for (size_t i = 0; i < f.size(); ++i) {
      const double angle = static_cast<double>(p) * f[i];
      EXPECT_FLOAT_EQ(tables.table().cos.ptr<float>(p)[i], static_cast<float>(m * std::cos(angle)));
      EXPECT_FLOAT_EQ(tables.table().sin.ptr<float>(p)[i], static_cast<float>(m * std::sin(angle)));
    }
  }
}

}  // namespace
}  // namespace dsr::test
