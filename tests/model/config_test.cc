// config.json: what is read, what is refused and in which words.
#include "model/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "model/rope_table.h"
#include "model/weights.h"
#include "support/expect_error.h"
#include "support/json_edit.h"
#include "support/tiny_checkpoint.h"

namespace dsr::test {
namespace {

const Json& base() {
  static const Json json = TinySpec::load("v3-fp8").config;
  return json;
}

struct Refused {
  const char* key;    // "a.b": of the object a
  const char* value;  // JSON; "": the key is absent
  const char* error;  // after "config.json: "
};

void expect_refused(const Json& from, const std::vector<Refused>& cases) {
  for (const Refused& r : cases)
    EXPECT_EQ(error_of([&] { parse_config(edited(from, r.key, r.value), {}); }),
              std::string("config.json: ") + r.error)
        << r.key << " = " << r.value;
}

// "_card" in the files of models/, "_name_or_path" in what transformers saves.
TEST(Config, KeysWithAnUnderscoreAreNotes) {
  std::string warnings;
  const auto warn = [&](const std::string& line) { warnings += line; };
  parse_config(edited(edited(base(), "_card", "{}"), "_name_or_path", "1"), warn);
  EXPECT_EQ(warnings, "");
  parse_config(edited(edited(base(), "_card", "{}"), "card", "1"), warn);
  EXPECT_EQ(warnings, "config.json: keys not understood and ignored: card");
}

TEST(Config, ReadsEveryField) {
  const ModelConfig c = parse_config(base(), {});
  EXPECT_EQ(c.architecture, "DeepseekV3ForCausalLM");
  EXPECT_EQ(c.model_type, "deepseek_v3");
  EXPECT_EQ(c.hidden_size, 208);
  EXPECT_EQ(c.intermediate_size, 272);
  EXPECT_EQ(c.num_hidden_layers, 3);
  EXPECT_EQ(c.num_attention_heads, 5);
  EXPECT_EQ(c.vocab_size, 200);
  EXPECT_EQ(c.max_position_embeddings, 256);
  EXPECT_EQ(c.rms_norm_eps, 1e-6);
  EXPECT_EQ(c.rope_theta, 10000);
  EXPECT_EQ(c.rope_scaling.type, RopeScalingType::kYarn);
  EXPECT_EQ(c.rope_scaling.factor, 4);
  EXPECT_EQ(c.rope_scaling.original_max_position_embeddings, 64);
  EXPECT_EQ(c.rope_scaling.beta_fast, 32);
  EXPECT_EQ(c.rope_scaling.beta_slow, 1);
  EXPECT_EQ(c.rope_scaling.mscale, 1);
  EXPECT_EQ(c.rope_scaling.mscale_all_dim, 1);
  EXPECT_FALSE(c.tie_word_embeddings);
  EXPECT_EQ(c.bos_token_id, 0);
  EXPECT_EQ(c.eos_token_ids, std::vector<int64_t>{1});
  EXPECT_EQ(c.q_lora_rank, 88);
  EXPECT_EQ(c.kv_lora_rank, 136);
  EXPECT_EQ(c.qk_head_dim(), 40);
  EXPECT_EQ(c.v_head_dim, 20);
  EXPECT_EQ(c.n_routed_experts, 12);
  EXPECT_EQ(c.n_shared_experts, 1);
  EXPECT_EQ(c.num_experts_per_tok, 3);
  EXPECT_EQ(c.moe_intermediate_size, 72);
  EXPECT_FALSE(c.is_moe_layer(0));
  EXPECT_TRUE(c.is_moe_layer(1));
  EXPECT_EQ(c.n_group, 4);
  EXPECT_EQ(c.topk_group, 2);
  EXPECT_TRUE(c.norm_topk_prob);
  EXPECT_EQ(c.routed_scaling_factor, 2.5);
  EXPECT_EQ(c.scoring_func, ScoringFunc::kSigmoid);
  EXPECT_EQ(c.group_score, GroupScore::kTop2Sum);
  EXPECT_TRUE(c.has_correction_bias);
  EXPECT_EQ(c.num_nextn_predict_layers, 0);
  EXPECT_EQ(c.quant, (QuantScheme{128, 128}));
}

TEST(Config, RefusesWhatItCannotRun) {
  expect_refused(
      base(),
      {
          {"architectures", "", "architectures is missing"},
          {"architectures", "[]", "architectures is [], expected a list of one name"},
          {"architectures", "\"DeepseekV3ForCausalLM\"",
           "architectures is \"DeepseekV3ForCausalLM\", expected a list of one name"},
          {"architectures", "[\"LlamaForTest\"]",
           "architecture \"LlamaForTest\" is not supported (supported: DeepseekForCausalLM, "
           "DeepseekV2ForCausalLM, DeepseekV3ForCausalLM, LlamaForCausalLM, Qwen2ForCausalLM)"},
          {"hidden_act", "\"gelu\"", "hidden_act is \"gelu\", only \"silu\" is supported"},
          {"attention_bias", "true", "attention_bias is true, only false is supported"},
          {"mlp_bias", "true", "mlp_bias is true, only false is supported"},
          {"use_qk_norm", "true", "use_qk_norm is true, only false is supported"},
          {"attn_logit_softcapping", "50.0",
           "attn_logit_softcapping is 50.0, only null is supported"},
          {"index_topk", "2048", "index_topk is 2048, only null is supported"},
          {"bos_token_id", "200", "bos_token_id is 200, expected -1 to 199"},
          {"rope_interleave", "false", "rope_interleave is false, only true is supported"},
          {"scoring_func", "\"softmax\"",
           "scoring_func is \"softmax\", only \"sigmoid\" is supported"},
          {"topk_method", "\"greedy\"",
           "topk_method is \"greedy\", only \"noaux_tc\" is supported"},
          {"qk_rope_head_dim", "15", "qk_rope_head_dim 15 is odd"},
          {"num_experts_per_tok", "",
           "n_routed_experts is 12 but num_experts_per_tok or moe_intermediate_size is missing"},
          {"n_group", "5", "n_group 5 does not divide n_routed_experts 12"},
          {"topk_group", "5", "topk_group 5 is above n_group 4"},
          {"num_experts_per_tok", "7",
           "num_experts_per_tok 7 is above the 6 experts of topk_group 2 groups"},
          // The modelling code has other defaults than 1 for these.
          {"n_group", "", "n_group is missing"},
          {"topk_group", "", "topk_group is missing"},
          {"topk_group", "null", "topk_group is missing"},
          {"routed_scaling_factor", "", "routed_scaling_factor is missing"},
          {"eos_token_id", "200", "eos_token_id 200 is not below vocab_size 200"},
          {"eos_token_id", "[1, 999]", "eos_token_id 999 is not below vocab_size 200"},
          {"eos_token_id", "[1, true]", "eos_token_id holds true, expected integers"},
      });
}

TEST(Config, RefusesWrongTypesAndRanges) {
  expect_refused(
      base(),
      {
          {"hidden_size", "", "hidden_size is missing"},
          {"hidden_size", "null", "hidden_size is missing"},
          {"hidden_size", "0", "hidden_size is 0, expected 1 to 1048576"},
          {"hidden_size", "true", "hidden_size is true, expected an integer from 1 to 1048576"},
          {"hidden_size", "1e3", "hidden_size is 1000.0, expected an integer from 1 to 1048576"},
          {"hidden_size", "[208]",
           "hidden_size is an array, expected an integer from 1 to 1048576"},
          {"num_hidden_layers", "2147483648",
           "num_hidden_layers is 2147483648, expected 1 to 1024"},
          {"num_attention_heads", "-5", "num_attention_heads is -5, expected 1 to 1048576"},
          {"vocab_size", "4194305", "vocab_size is 4194305, expected 1 to 4194304"},
          {"n_routed_experts", "16385", "n_routed_experts is 16385, expected 1 to 16384"},
          {"num_nextn_predict_layers", "17", "num_nextn_predict_layers is 17, expected 0 to 16"},
          {"q_lora_rank", "0", "q_lora_rank is 0, expected 1 to 1048576"},
          {"kv_lora_rank", "", "kv_lora_rank is missing"},
          {"rms_norm_eps", "-1e-6", "rms_norm_eps is -1e-06, expected 0 to 1"},
          {"rms_norm_eps", "\"1e-6\"", "rms_norm_eps is \"1e-6\", expected a number from 0 to 1"},
          {"rope_theta", "1", "rope_theta is 1, expected 2 to 1e+12"},
          {"norm_topk_prob", "1", "norm_topk_prob is 1, expected true or false"},
          {"routed_scaling_factor", "0", "routed_scaling_factor is 0, expected 1e-06 to 1e+06"},
      });
}

TEST(Config, RefusesOtherRopeScalings) {
  expect_refused(
      base(),
      {
          {"rope_scaling", "7", "rope_scaling: expected a JSON object, found integer"},
          {"rope_scaling.type", "\"dynamic\"",
           "rope_scaling.type \"dynamic\" is not supported (supported: yarn, llama3, linear)"},
          {"rope_scaling.type", "",
           "rope_scaling.type \"\" is not supported (supported: yarn, llama3, linear)"},
          {"rope_scaling.factor", "", "rope_scaling: factor is missing"},
          {"rope_scaling.factor", "0.5", "rope_scaling: factor is 0.5, expected 1 to 1e+06"},
          {"rope_scaling.original_max_position_embeddings", "0",
           "rope_scaling: original_max_position_embeddings is 0, expected 1 to 16777216"},
          {"rope_scaling.beta_fast", "0", "rope_scaling: beta_fast is 0, expected 1e-06 to 1e+06"},
          {"rope_scaling.attention_factor", "1.5",
           "rope_scaling.attention_factor is not supported"},
          {"rope_scaling.rope_type", "\"default\"",
           "rope_scaling.type is \"yarn\", rope_type is \"default\""},
          {"rope_scaling.type", "\"default\"", "rope_scaling.factor is not supported"},
          {"rope_scaling.partial_rotary_factor", "0.5",
           "rope_scaling: partial_rotary_factor is 0.5, only 1 is supported"},
          {"partial_rotary_factor", "0.5", "partial_rotary_factor is 0.5, only 1 is supported"},
          {"rope_scaling", R"({"type": "linear", "factor": 2})",
           "rope_scaling of DeepseekV3ForCausalLM: only yarn is supported"},
          {"rope_scaling.rope_theta", "500000",
           "rope_scaling.rope_theta is 500000, rope_theta is 10000"},
          {"rope_parameters", "{\"rope_type\": \"default\"}",
           "has both rope_scaling and rope_parameters, expected one"},
      });
}

TEST(Config, RefusesOtherQuantisations) {
  expect_refused(
      base(),
      {
          {"quantization_config.quant_method", "\"gptq\"",
           "quantization_config: quant_method \"gptq\" is not supported (supported: fp8)"},
          {"quantization_config.quant_method", "", "quantization_config: quant_method is missing"},
          {"quantization_config.fmt", "\"e5m2\"",
           "quantization_config: fmt \"e5m2\" is not supported (supported: e4m3)"},
          {"quantization_config.scale_fmt", "\"e5m3\"",
           "quantization_config: scale_fmt \"e5m3\" is not supported (supported: ue8m0)"},
          {"quantization_config.weight_block_size", "",
           "quantization_config: weight_block_size is missing"},
          {"quantization_config.weight_block_size", "[128]",
           "quantization_config: weight_block_size is [128], expected two positive integers"},
          {"quantization_config.weight_block_size", "[128, 0]",
           "quantization_config: weight_block_size is [128,0], expected two positive integers"},
          {"quantization_config.activation_scheme", "\"static\"",
           "quantization_config: activation_scheme \"static\" is not supported (supported: "
           "dynamic)"},
          {"quantization_config.modules_to_not_convert", "\"lm_head\"",
           "quantization_config: modules_to_not_convert is \"lm_head\", expected a list of names"},
          {"quantization_config.kv_scales", "1", "quantization_config.kv_scales is not supported"},
      });
}

// Matrices of an FP8 checkpoint that are not FP8: those that no release converts, and those named.
TEST(Config, ModulesThatAreNotConverted) {
  const ModelConfig c = parse_config(
      edited(edited(base(), "quantization_config.modules_to_not_convert", "[\"layers.1.mlp\"]"),
             "quantization_config.ignored_layers", "[\"o_proj\", \"q_a\"]"),
      {});
  ModelWeights weights;
  std::map<std::string, bool> fp8;
  for_each_weight(c, false, weights, [&](const WeightSpec& w) { fp8[w.name] = w.fp8; });
  EXPECT_FALSE(fp8.at("lm_head.weight"));
  EXPECT_FALSE(fp8.at("model.layers.1.mlp.gate.weight"));
  EXPECT_FALSE(fp8.at("model.layers.1.mlp.experts.3.up_proj.weight"));
  EXPECT_FALSE(fp8.at("model.layers.2.self_attn.o_proj.weight"));
  EXPECT_TRUE(fp8.at("model.layers.2.mlp.experts.3.up_proj.weight"));
  EXPECT_TRUE(fp8.at("model.layers.0.self_attn.q_a_proj.weight"));  // "q_a" is no word of it
}

TEST(Config, ReadsWhatTransformers5Saves) {
  const Json old = TinySpec::load("v3-mtp").config;
  Json saved = edited(edited(old, "rope_scaling", ""), "rope_theta", "");
  Json parameters = with_member(*old.find("rope_scaling"), "rope_theta", *old.find("rope_theta"));
  saved = with_member(saved, "rope_parameters", with_member(parameters, "rope_type", Json("yarn")));
  std::string warning;
  const ModelConfig a = parse_config(old, {});
  const ModelConfig b = parse_config(saved, [&](const std::string& text) { warning = text; });
  EXPECT_EQ(warning, "");
  EXPECT_EQ(rope_inv_freq(a), rope_inv_freq(b));
  EXPECT_EQ(softmax_scale(a), softmax_scale(b));

  const ModelConfig plain = parse_config(
      edited(saved, "rope_parameters", R"({"rope_type": "default", "rope_theta": 50000.0})"), {});
  EXPECT_EQ(plain.rope_theta, 50000);
  EXPECT_EQ(plain.rope_scaling.type, RopeScalingType::kNone);
}

TEST(Config, NamesUnknownKeysOnce) {
  std::vector<std::string> warnings;
  const Json json = edited(edited(base(), "speed", "9"), "new\nline", "null");
  parse_config(json, [&](const std::string& text) { warnings.push_back(text); });
  EXPECT_EQ(warnings, std::vector<std::string>{
                          "config.json: keys not understood and ignored: speed, new\\x0aline"});
}

TEST(Config, EosMayBeAListOrAbsent) {
  EXPECT_EQ(parse_config(edited(base(), "eos_token_id", "[1, 7]"), {}).eos_token_ids,
            (std::vector<int64_t>{1, 7}));
  EXPECT_TRUE(parse_config(edited(base(), "eos_token_id", ""), {}).eos_token_ids.empty());
  EXPECT_TRUE(parse_config(edited(base(), "eos_token_id", "null"), {}).eos_token_ids.empty());
}

}  // namespace
}  // namespace dsr::test
