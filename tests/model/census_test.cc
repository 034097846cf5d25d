// The tensors of released checkpoints, counted from their config.json: models.md section 1.
#include <gtest/gtest.h>

#include <map>

#include "base/math.h"
#include "model/weights.h"
#include "support/model_configs.h"

namespace dsr::test {
namespace {

struct Census {
  int64_t tensors = 0, elements = 0, bytes = 0;
  bool operator==(const Census&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Census& c) {
  return out << c.tensors << " tensors, " << c.elements << " elements, " << c.bytes << " bytes";
}

// As the vendor stores a V3 checkpoint: matrices in FP8 with float32 scales where the config has a
// block, except for router, head and eh_proj; the correction bias in float32; the rest in bf16.
bool is_fp8(const WeightSpec& w, const ModelConfig& c) {
  return c.quant.block_rows > 0 && w.role == WeightRole::kLinear &&
         !w.name.ends_with("mlp.gate.weight") && !w.name.ends_with("eh_proj.weight") &&
         w.name != "lm_head.weight";
}

Census census_of(const std::string& name) {
  const ModelConfig c = parse_config(model_config(name), {});
  Census out;
  const auto add = [&](int64_t elements, int64_t element_bytes) {
    ++out.tensors;
    out.elements += elements;
    out.bytes += elements * element_bytes;
  };
  ModelWeights weights;
  for_each_weight(c, true, weights, [&](const WeightSpec& w) {
    const int64_t n = Shape(w.shape).elements();
    if (is_fp8(w, c)) {
      add(n, 1);
      add(ceil_div(w.shape[0], c.quant.block_rows) * ceil_div(w.shape[1], c.quant.block_columns),
          4);
    } else {
      add(n, w.name.ends_with("e_score_correction_bias") ? 4 : 2);
    }
  });
  return out;
}

TEST(CensusTest, DeepSeekR1) {
  DSR_NEEDS_MODEL_CONFIG("deepseek-r1");
  EXPECT_EQ(census_of("deepseek-r1"), (Census{91991, 684531386000, 688574839360}));
}

TEST(CensusTest, DeepSeekV3) {
  DSR_NEEDS_MODEL_CONFIG("deepseek-v3");
  EXPECT_EQ(census_of("deepseek-v3"), (Census{91991, 684531386000, 688574839360}));
}

TEST(CensusTest, KimiK2) {
  DSR_NEEDS_MODEL_CONFIG("kimi-k2-instruct");
  const Census c = census_of("kimi-k2-instruct");
  EXPECT_EQ(c.tensors, 139583);
  EXPECT_EQ(c.bytes, 1029173249888);
}

TEST(CensusTest, ShardsAreMarked) {
  DSR_NEEDS_MODEL_CONFIG("deepseek-r1");
  const ModelConfig c = parse_config(model_config("deepseek-r1"), {});
  ModelWeights weights;
  std::map<std::string, Shard> shards;
  for_each_weight(c, false, weights, [&](const WeightSpec& w) { shards[w.name] = w.shard; });
  EXPECT_EQ(shards.at("model.layers.4.self_attn.q_a_proj.weight"), Shard::kReplicated);
  EXPECT_EQ(shards.at("model.layers.4.self_attn.q_b_proj.weight"), Shard::kRows);
  EXPECT_EQ(shards.at("model.layers.4.self_attn.kv_b_proj.weight"), Shard::kRows);
  EXPECT_EQ(shards.at("model.layers.4.self_attn.o_proj.weight"), Shard::kColumns);
  EXPECT_EQ(shards.at("model.layers.4.mlp.gate.weight"), Shard::kReplicated);
  EXPECT_EQ(shards.at("model.layers.4.mlp.experts.9.up_proj.weight"), Shard::kRows);
  EXPECT_EQ(shards.at("model.layers.4.mlp.experts.9.down_proj.weight"), Shard::kColumns);
}

}  // namespace
}  // namespace dsr::test
