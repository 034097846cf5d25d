// The tensors of released checkpoints, counted from their config.json: models.md section 1.
#include <gtest/gtest.h>

#include <map>

#include "model/declared_source.h"
#include "model/weights.h"
#include "support/cards.h"

namespace dsr::test {
namespace {

struct Census {
  int64_t tensors = 0, elements = 0, bytes = 0;
  bool operator==(const Census&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Census& c) {
  return out << c.tensors << " tensors, " << c.elements << " elements, " << c.bytes << " bytes";
}

Census census_of(const WeightSource& source) {
  Census out;
  for (const std::string& name : source.names()) {
    const SourceTensor& t = *source.find(name);
    ++out.tensors;
    out.elements += tensor_bytes(t) / size_bytes(*t.dtype);
    out.bytes += tensor_bytes(t);
  }
  return out;
}

struct Row {
  const char* card;
  int64_t tensors, bytes;
};

// As the released files have them, to the byte.
TEST(CensusTest, ReleasedCheckpoints) {
  for (const Row& row : {
           Row{"deepseek-v3", 91991, 688574839360},
           Row{"deepseek-r1", 91991, 688574839360},
           Row{"kimi-k2-instruct", 139583, 1029173249888},
           Row{"deepseek-v2-lite", 5291, 31412968448},
           Row{"deepseek-v2", 29102, 471482869760},
       }) {
    const Census census = census_of(DeclaredSource(parse_config(card(row.card), {})));
    EXPECT_EQ(census.tensors, row.tensors) << row.card;
    EXPECT_EQ(census.bytes, row.bytes) << row.card;
  }
}

TEST(CensusTest, ElementsCountScales) {
  EXPECT_EQ(census_of(DeclaredSource(parse_config(card("deepseek-r1"), {}))),
            (Census{91991, 684531386000, 688574839360}));
}

// What a card says of itself, against the list of its model's tensors.
TEST(CensusTest, CardsCountTheirParameters) {
  for (const std::string& name : card_names()) {
    const Json json = card(name);
    SCOPED_TRACE(name);
    std::string warnings;
    const ModelConfig c =
        parse_config(json, [&](const std::string& line) { warnings += line + "\n"; });
    EXPECT_EQ(warnings, "");
    int64_t parameters = 0;
    ModelWeights unused;
    for_each_weight(c, /*with_mtp=*/false, unused,
                    [&](const WeightSpec& w) { parameters += Shape(w.shape).elements(); });
    const Json& about = *json.find("_card");
    EXPECT_EQ(parameters, about.find("parameters")->as_int());
    EXPECT_EQ(std::string(dsr::name(released_format(c))), about.find("weights")->as_string());
  }
  EXPECT_EQ(card_names().size(), 23u);
}

TEST(CensusTest, OtherFormats) {
  const ModelConfig released = parse_config(card("deepseek-v3"), {});
  const ModelConfig bf16 = with_format(released, WeightFormat::kBF16);
  const DeclaredSource source(bf16);
  EXPECT_EQ(source.find("model.layers.3.self_attn.o_proj.weight_scale_inv"), nullptr);
  EXPECT_EQ(source.find("model.layers.3.self_attn.o_proj.weight")->dtype_name, "BF16");
  EXPECT_EQ(source.find("model.layers.3.mlp.gate.e_score_correction_bias")->dtype_name, "F32");
  EXPECT_EQ(source.find("model.layers.61.embed_tokens.weight"), nullptr);
  EXPECT_EQ(with_format(bf16, WeightFormat::kFP8).quant, (QuantScheme{128, 128}));
  EXPECT_EQ(with_format(released, WeightFormat::kFP8).quant, released.quant);
}

TEST(CensusTest, ShapesOfAnotherSource) {
  const DeclaredSource from(parse_config(card("moonlight-16b-a3b"), {}));
  const DeclaredSource copy(static_cast<const WeightSource&>(from));
  EXPECT_EQ(copy.names(), from.names());
  EXPECT_EQ(census_of(copy), census_of(from));
}

TEST(CensusTest, ShardsAreMarked) {
  const ModelConfig c = parse_config(card("deepseek-r1"), {});
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
