// config.json of the architectures beside DeepseekV3: what each reads, what it refuses and in which
// words. What all share is tested in config_test.cc.
#include <gtest/gtest.h>

#include "model/config.h"
#include "support/expect_error.h"
#include "support/json_edit.h"
#include "support/tiny_checkpoint.h"

namespace dsr::test {
namespace {

Json config_of(const char* name) { return TinySpec::load(name).config; }

struct Refused {
  const char* key;
  const char* value;  // JSON; "": the key is absent
  const char* error;  // after "config.json: "
};

void expect_refused(const char* name, const std::vector<Refused>& cases) {
  for (const Refused& r : cases)
    EXPECT_EQ(error_of([&] { parse_config(edited(config_of(name), r.key, r.value), {}); }),
              std::string("config.json: ") + r.error)
        << r.key << " = " << r.value;
}

void expect_no_experts(const ModelConfig& c) {
  EXPECT_EQ(c.n_routed_experts, 0);
  EXPECT_FALSE(c.is_moe_layer(1));
  EXPECT_EQ(c.num_nextn_predict_layers, 0);
}

TEST(LlamaConfig, ReadsEveryField) {
  const ModelConfig c = parse_config(config_of("llama-llama3"), {});
  EXPECT_EQ(c.architecture, "LlamaForCausalLM");
  EXPECT_EQ(c.attention, AttentionKind::kGqa);
  EXPECT_EQ(c.num_attention_heads, 6);
  EXPECT_EQ(c.num_key_value_heads, 2);
  EXPECT_EQ(c.head_dim, 20);  // not 90 / 6
  EXPECT_EQ(c.rope_dim(), 20);
  EXPECT_FALSE(c.qkv_bias);
  EXPECT_EQ(c.rms_norm_eps, 1e-5);
  EXPECT_EQ(c.eos_token_ids, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(c.rope_scaling.type, RopeScalingType::kLlama3);
  EXPECT_EQ(c.rope_scaling.factor, 8);
  EXPECT_EQ(c.rope_scaling.low_freq_factor, 1);
  EXPECT_EQ(c.rope_scaling.high_freq_factor, 4);
  EXPECT_EQ(c.rope_scaling.original_max_position_embeddings, 64);
  expect_no_experts(c);
}

TEST(LlamaConfig, Defaults) {
  const Json json = edited(config_of("llama-gqa"), "num_key_value_heads", "");
  const ModelConfig c = parse_config(edited(json, "rope_theta", ""), {});
  EXPECT_EQ(c.num_key_value_heads, 6);  // MHA
  EXPECT_EQ(c.head_dim, 20);            // 120 / 6
  EXPECT_EQ(c.rope_theta, 10000);
  EXPECT_EQ(c.rope_scaling.type, RopeScalingType::kNone);
  const ModelConfig linear = parse_config(config_of("llama-linear"), {});
  EXPECT_EQ(linear.rope_scaling.type, RopeScalingType::kLinear);
  EXPECT_EQ(linear.rope_scaling.factor, 4);
}

TEST(LlamaConfig, Refuses) {
  expect_refused(
      "llama-llama3",
      {
          {"attention_bias", "true", "attention_bias is true, only false is supported"},
          {"num_key_value_heads", "4",
           "num_key_value_heads 4 does not divide num_attention_heads 6"},
          {"num_key_value_heads", "12",
           "num_key_value_heads 12 does not divide num_attention_heads 6"},
          {"num_key_value_heads", "0", "num_key_value_heads is 0, expected 1 to 1048576"},
          {"head_dim", "15", "head_dim 15 is odd"},
          {"head_dim", "", "head_dim 15 is odd"},
          {"head_dim", "1048576",
           "num_attention_heads x head_dim is 6 x 1048576, expected at most 1048576"},
          {"hidden_act", "\"gelu\"", "hidden_act is \"gelu\", only \"silu\" is supported"},
          {"rope_scaling.low_freq_factor", "4.0",
           "rope_scaling.high_freq_factor 4 is not above low_freq_factor 4"},
          {"rope_scaling.low_freq_factor", "", "rope_scaling: low_freq_factor is missing"},
          {"rope_scaling.original_max_position_embeddings", "",
           "rope_scaling: original_max_position_embeddings is missing"},
          {"rope_scaling.beta_fast", "32", "rope_scaling.beta_fast is not supported"},
      });
  expect_refused(
      "llama-linear",
      {{"num_attention_heads", "5", "num_key_value_heads 3 does not divide num_attention_heads 5"},
       {"hidden_size", "73", "num_attention_heads 3 does not divide hidden_size 73"},
       {"rope_scaling.factor", "0", "rope_scaling: factor is 0, expected 1 to 1e+06"}});
}

TEST(Qwen2Config, ReadsEveryField) {
  const ModelConfig c = parse_config(config_of("qwen2"), {});
  EXPECT_EQ(c.architecture, "Qwen2ForCausalLM");
  EXPECT_EQ(c.attention, AttentionKind::kGqa);
  EXPECT_TRUE(c.qkv_bias);
  EXPECT_EQ(c.num_key_value_heads, 3);
  EXPECT_EQ(c.head_dim, 14);
  EXPECT_FALSE(c.tie_word_embeddings);
  expect_no_experts(c);
  EXPECT_TRUE(parse_config(config_of("qwen2-tied"), {}).tie_word_embeddings);
}

TEST(Qwen2Config, SlidingWindowsAreRefusedWhereTheyAreUsed) {
  std::string warnings;
  const Json good = edited(config_of("qwen2"), "layer_types",
                           R"(["full_attention", "full_attention", "full_attention"])");
  parse_config(good, [&](const std::string& line) { warnings += line; });
  EXPECT_EQ(warnings, "");
  expect_refused(
      "qwen2",
      {{"use_sliding_window", "true", "use_sliding_window is true, only false is supported"},
       {"layer_types", R"(["full_attention", "sliding_attention"])",
        "layer_types is [\"full_attention\",\"sliding_attention\"], only \"full_attention\" is "
        "supported"},
       {"layer_types", "7", "layer_types is 7, only \"full_attention\" is supported"}});
}

TEST(DeepseekMoeConfig, ReadsEveryField) {
  const ModelConfig c = parse_config(config_of("deepseek-moe"), {});
  EXPECT_EQ(c.architecture, "DeepseekForCausalLM");
  EXPECT_EQ(c.attention, AttentionKind::kGqa);
  EXPECT_EQ(c.n_routed_experts, 12);
  EXPECT_EQ(c.n_shared_experts, 2);
  EXPECT_EQ(c.num_experts_per_tok, 4);
  EXPECT_EQ(c.moe_intermediate_size, 36);
  EXPECT_FALSE(c.is_moe_layer(0));
  EXPECT_TRUE(c.is_moe_layer(1));
  EXPECT_EQ(c.scoring_func, ScoringFunc::kSoftmax);
  EXPECT_FALSE(c.norm_topk_prob);
  EXPECT_EQ(c.routed_scaling_factor, 1);
  EXPECT_EQ(c.n_group, 1);
  EXPECT_FALSE(c.has_correction_bias);
}

TEST(DeepseekMoeConfig, Refuses) {
  expect_refused(
      "deepseek-moe",
      {
          {"scoring_func", "\"sigmoid\"",
           "scoring_func is \"sigmoid\", only \"softmax\" is supported"},
          {"num_experts_per_tok", "13",
           "num_experts_per_tok 13 is above the 12 experts of topk_group 1 groups"},
          {"moe_intermediate_size", "",
           "n_routed_experts is 12 but num_experts_per_tok or moe_intermediate_size is missing"},
          {"moe_intermediate_size", "1048576",
           "n_shared_experts x moe_intermediate_size is 2 x 1048576, expected at most 1048576"},
          {"attention_bias", "true", "attention_bias is true, only false is supported"},
      });
}

TEST(DeepseekV2Config, ReadsEveryField) {
  const ModelConfig c = parse_config(config_of("v2"), {});
  EXPECT_EQ(c.architecture, "DeepseekV2ForCausalLM");
  EXPECT_EQ(c.attention, AttentionKind::kMla);
  EXPECT_EQ(c.q_lora_rank, 52);
  EXPECT_EQ(c.kv_lora_rank, 44);
  EXPECT_EQ(c.qk_head_dim(), 32);
  EXPECT_EQ(c.rope_dim(), 20);
  EXPECT_EQ(c.v_head_dim, 24);
  EXPECT_EQ(c.n_group, 5);
  EXPECT_EQ(c.topk_group, 2);
  EXPECT_EQ(c.routed_scaling_factor, 16);
  EXPECT_FALSE(c.norm_topk_prob);
  EXPECT_EQ(c.scoring_func, ScoringFunc::kSoftmax);
  EXPECT_EQ(c.group_score, GroupScore::kMax);
  EXPECT_FALSE(c.has_correction_bias);
  EXPECT_EQ(c.rope_scaling.mscale, 0.707);
  EXPECT_EQ(c.rope_scaling.mscale_all_dim, 0.707);
  EXPECT_EQ(parse_config(config_of("v2.5"), {}).rope_scaling.mscale_all_dim, 1);
  EXPECT_EQ(parse_config(config_of("v2-lite"), {}).q_lora_rank, 0);
}

TEST(DeepseekV2Config, GreedyHasNoGroups) {
  const ModelConfig c = parse_config(edited(config_of("v2"), "topk_method", "\"greedy\""), {});
  EXPECT_EQ(c.n_group, 1);
  EXPECT_EQ(c.topk_group, 1);
}

// The modelling code normalises or scales, never both.
TEST(DeepseekV2Config, NormalisedWeightsAreNotScaled) {
  const ModelConfig c = parse_config(edited(config_of("v2"), "norm_topk_prob", "true"), {});
  EXPECT_TRUE(c.norm_topk_prob);
  EXPECT_EQ(c.routed_scaling_factor, 1);
}

TEST(DeepseekV2Config, Refuses) {
  expect_refused(
      "v2",
      {
          {"topk_method", "\"noaux_tc\"",
           "topk_method \"noaux_tc\" is not supported (supported: greedy, group_limited_greedy)"},
          {"scoring_func", "\"sigmoid\"",
           "scoring_func is \"sigmoid\", only \"softmax\" is supported"},
          {"n_group", "3", "n_group 3 does not divide n_routed_experts 20"},
          {"topk_group", "6", "topk_group 6 is above n_group 5"},
          {"num_experts_per_tok", "9",
           "num_experts_per_tok 9 is above the 8 experts of topk_group 2 groups"},
          {"kv_lora_rank", "null", "kv_lora_rank is missing"},
          {"v_head_dim", "1048576",
           "num_attention_heads x (qk_nope_head_dim + v_head_dim) is 6 x 1048588, expected at most "
           "1048576"},
          {"num_hidden_layers", "", "num_hidden_layers is missing"},
      });
  const Json deep = edited(config_of("v2"), "num_hidden_layers", "1024");
  EXPECT_EQ(error_of([&] { parse_config(edited(deep, "n_routed_experts", "80"), {}); }),
            "config.json: num_hidden_layers x n_routed_experts is 1024 x 80, expected at most "
            "65536");
}

}  // namespace
}  // namespace dsr::test
