// Random checkpoints: the values' spread, the files, and that the engine runs them.
#include "deepseek_run/random_checkpoint.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "deepseek_run/engine.h"
#include "io/checkpoint.h"
#include "model/declared_source.h"
#include "model/random_weights.h"
#include "support/cards.h"
#include "support/expect_error.h"
#include "support/json_edit.h"
#include "support/temp_dir.h"
#include "support/tiny_checkpoint.h"

namespace dsr::test {
namespace {

std::string bytes_of(const RandomWeights& random, const std::string& name) {
  std::string out;
  random.generate(name, [&](std::string_view piece) { out += piece; });
  return out;
}

struct Moments {
  double mean = 0, deviation = 0, largest = 0;
};

Moments moments_of(const std::string& bytes, DType type) {
  std::vector<float> v(bytes.size() / static_cast<size_t>(size_bytes(type)));
  to_f32(type, bytes.data(), v.data(), std::ssize(v));
  Moments m;
  for (const float x : v) m.mean += double{x} / static_cast<double>(v.size());
  for (const float x : v) {
    m.deviation += (x - m.mean) * (x - m.mean) / static_cast<double>(v.size());
    m.largest = std::max(m.largest, std::abs(double{x}));
  }
  m.deviation = std::sqrt(m.deviation);
  return m;
}

// The error of a deviation from n samples is about deviation / sqrt(2n): below 0.4 % for the
// smallest matrix here (54,000 numbers); bf16 rounding adds 0.1 %.
void expect_deviation(const RandomWeights& random, const std::string& name, double want) {
  const Moments m = moments_of(bytes_of(random, name), DType::kBF16);
  EXPECT_NEAR(m.deviation / want, 1, 0.02) << name;
  EXPECT_NEAR(m.mean / want, 0, 0.02) << name;
  EXPECT_LT(m.largest, 3.8 * want) << name;
}

TEST(RandomWeightsTest, MatricesAreSpreadLikeTrainedOnes) {
  const DeclaredSource source(parse_config(card("moonlight-16b-a3b"), {}));
  const RandomWeights random(source, 1);
  expect_deviation(random, "model.layers.0.self_attn.kv_b_proj.weight", 1 / std::sqrt(512.0));
  expect_deviation(random, "model.layers.1.mlp.experts.7.down_proj.weight", 1 / std::sqrt(1408.0));
  expect_deviation(random, "model.layers.1.mlp.gate.weight", 2 / std::sqrt(2048.0));
  const Moments norm =
      moments_of(bytes_of(random, "model.layers.0.input_layernorm.weight"), DType::kBF16);
  EXPECT_NEAR(norm.mean, 1, 0.02);
  EXPECT_NEAR(norm.deviation, 0.1, 0.02);
  const Moments bias =
      moments_of(bytes_of(random, "model.layers.1.mlp.gate.e_score_correction_bias"), DType::kF32);
  EXPECT_LT(bias.largest, 0.04);
  EXPECT_GT(bias.deviation, 0.005);
}

TEST(RandomWeightsTest, CodesTimesScalesHaveTheSameSpread) {
  const ModelConfig c =
      with_format(parse_config(card("moonlight-16b-a3b"), {}), WeightFormat::kFP8);
  const DeclaredSource source(c);
  const RandomWeights random(source, 1);
  const std::string name = "model.layers.1.mlp.shared_experts.down_proj.weight";  // [2048, 2816]
  const std::string codes = bytes_of(random, name);
  const std::string scales = bytes_of(random, name + "_scale_inv");
  EXPECT_EQ(scales.size(), 16u * 22 * 4);
  const WeightSegment segment{Tensor::of(codes.data(), DType::kF8E4M3, {2048, 2816}),
                              Tensor::of(scales.data(), DType::kF32, {16, 22})};
  double sum = 0;
  std::vector<float> row(2816);
  for (int64_t r = 0; r < 2048; ++r) {
    dequantize_row(segment, c.quant, r, 0, 2816, row.data());
    for (const float v : row) sum += double{v} * v;
  }
  EXPECT_NEAR(std::sqrt(sum / 2048 / 2816) * std::sqrt(2816.0), 1, 0.03);
  EXPECT_EQ(moments_of(codes, DType::kF8E4M3).largest, 448);
}

TEST(RandomWeightsTest, SeedAndNameDecide) {
  const DeclaredSource source(parse_config(card("deepseek-v3"), {}));
  const RandomWeights one(source, 1), again(source, 1), two(source, 2);
  const std::string up = "model.layers.5.mlp.experts.0.up_proj.weight_scale_inv";
  const std::string gate = "model.layers.5.mlp.experts.0.gate_proj.weight_scale_inv";
  EXPECT_EQ(bytes_of(one, up), bytes_of(again, up));
  EXPECT_NE(bytes_of(one, up), bytes_of(two, up));
  EXPECT_NE(bytes_of(one, up), bytes_of(one, gate));
}

class RandomCheckpointTest : public testing::Test {
 protected:
  RandomCheckpointOptions options(const std::string& tiny) {
    RandomCheckpointOptions o;
    const Json with_card = edited(TinySpec::load(tiny).config, "_card", "{}");
    o.card = dir_.write("card.json", with_card.pretty());
    o.directory = dir_.file("out");
    o.layers = 2;
    o.seed = 7;
    return o;
  }
  // Names of what is in the scratch directory.
  std::vector<std::string> left() const {
    std::vector<std::string> out;
    for (const auto& e : std::filesystem::directory_iterator(dir_.path()))
      out.push_back(e.path().filename().string());
    std::sort(out.begin(), out.end());
    return out;
  }
  TempDir dir_;
};

TEST_F(RandomCheckpointTest, TheEngineRunsIt) {
  for (const char* weights : {"bf16", "fp8"}) {
    RandomCheckpointOptions o = options("v3-bf16");
    o.weights = weights;
    o.directory += weights;
    const RandomCheckpoint made = make_random_checkpoint(o);
    EXPECT_TRUE(made.complete);
    const Checkpoint checkpoint = Checkpoint::open(o.directory, {});
    EXPECT_EQ(checkpoint.n_tensors(), made.tensors);
    EXPECT_EQ(checkpoint.total_bytes(), made.bytes);
    EXPECT_EQ(checkpoint.config().find("num_hidden_layers")->as_int(), 2);
    EXPECT_EQ(checkpoint.config().find("_card"), nullptr);
    EXPECT_EQ(checkpoint.find("model.layers.0.self_attn.o_proj.weight")->dtype_name,
              o.weights == "fp8" ? "F8_E4M3" : "BF16");

    EngineOptions e;
    e.model_dir = o.directory;
    const std::unique_ptr<Engine> engine = Engine::create(e);
    double sum = 0, squares = 0;
    int64_t n = 0;
    const std::vector<TokenId> ids = {1, 5, 9, 13};
    engine->logits(ids, [&](int64_t, std::span<const float> row) {
      for (const float v : row) {
        ASSERT_TRUE(std::isfinite(v));
        sum += v;
        squares += double{v} * v;
        ++n;
      }
    });
    // The head keeps the norm of a normed state: logits of about one.
    const double deviation = std::sqrt(squares / static_cast<double>(n));
    EXPECT_GT(deviation, 0.5);
    EXPECT_LT(deviation, 2);
    EXPECT_LT(std::abs(sum / static_cast<double>(n)), 0.5);
  }
}

TEST_F(RandomCheckpointTest, TheSameSeedMakesTheSameFiles) {
  RandomCheckpointOptions o = options("v3-fp8");
  make_random_checkpoint(o);
  const std::string name = "/model-00001-of-00001.safetensors";
  const std::string one = read_file(o.directory + name, 1 << 30);
  o.directory += "2/";
  make_random_checkpoint(o);
  EXPECT_EQ(read_file(dir_.file("out2") + name, 1 << 30), one);
  o.directory = dir_.file("out3");
  o.seed = 8;
  make_random_checkpoint(o);
  EXPECT_NE(read_file(o.directory + name, 1 << 30), one);
}

TEST_F(RandomCheckpointTest, WhatIsThereIsLeftAlone) {
  RandomCheckpointOptions o = options("v3-bf16");
  std::filesystem::create_directory(o.directory);
  EXPECT_NE(error_of([&] { make_random_checkpoint(o); }, ErrorKind::kUsage)
                .find("exists already, expected the name of a new directory"),
            std::string::npos);
  EXPECT_TRUE(std::filesystem::is_empty(o.directory));
}

TEST_F(RandomCheckpointTest, NothingIsLeftOfOneThatWasStopped) {
  RandomCheckpointOptions o = options("v3-bf16");
  int calls = 0;
  o.progress = [&](int64_t, int64_t) { return ++calls < 5; };
  EXPECT_FALSE(make_random_checkpoint(o).complete);
  EXPECT_EQ(left(), std::vector<std::string>{"card.json"});
}

TEST_F(RandomCheckpointTest, ADirectoryThatCannotBeMade) {
  RandomCheckpointOptions o = options("v3-bf16");
  o.directory = dir_.file("card.json") + "/out";
  error_of([&] { make_random_checkpoint(o); }, ErrorKind::kOutput);
}

}  // namespace
}  // namespace dsr::test
