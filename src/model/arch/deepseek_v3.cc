// DeepseekV3ForCausalLM (arXiv:2412.19437): MLA, sigmoid gate with a correction bias for the choice
// alone (auxiliary-loss-free balancing), groups scored by their two best experts, one or more MTP
// layers behind the main ones.
#include "model/arch/deepseek_v3.h"

#include <array>

#include "base/error.h"
#include "model/config_fields.h"

namespace dsr {
namespace {

constexpr std::array kInts = {
    IntField{"q_lora_rank", &ModelConfig::q_lora_rank, 1, kMaxWidth, 0},
    IntField{"kv_lora_rank", &ModelConfig::kv_lora_rank, 1, kMaxWidth, {}},
    IntField{"qk_nope_head_dim", &ModelConfig::qk_nope_head_dim, 1, kMaxWidth, {}},
    IntField{"qk_rope_head_dim", &ModelConfig::qk_rope_head_dim, 2, kMaxWidth, {}},
    IntField{"v_head_dim", &ModelConfig::v_head_dim, 1, kMaxWidth, {}},
    IntField{"n_routed_experts", &ModelConfig::n_routed_experts, 1, kMaxExperts, 0},
    IntField{"n_shared_experts", &ModelConfig::n_shared_experts, 1, kMaxExperts, 0},
    IntField{"num_experts_per_tok", &ModelConfig::num_experts_per_tok, 1, kMaxExperts, 0},
    IntField{"moe_intermediate_size", &ModelConfig::moe_intermediate_size, 1, kMaxWidth, 0},
    IntField{"first_k_dense_replace", &ModelConfig::first_k_dense_replace, 0, kMaxLayers, 0},
    IntField{"moe_layer_freq", &ModelConfig::moe_layer_freq, 1, kMaxLayers, 1},
    IntField{"n_group", &ModelConfig::n_group, 1, kMaxExperts, 1},
    IntField{"topk_group", &ModelConfig::topk_group, 1, kMaxExperts, 1},
    IntField{"num_nextn_predict_layers", &ModelConfig::num_nextn_predict_layers, 0, 16, 0},
};
constexpr std::array kDoubles = {
    DoubleField{"routed_scaling_factor", &ModelConfig::routed_scaling_factor, 1e-6, 1e6, 1.0},
};
constexpr std::array kBools = {
    BoolField{"norm_topk_prob", &ModelConfig::norm_topk_prob, true},
};
constexpr std::array kFixed = {
    FixedField{"scoring_func", "\"sigmoid\""}, FixedField{"topk_method", "\"noaux_tc\""},
    FixedField{"attention_bias", "false"},
    FixedField{"rope_interleave", "true"},  // written by transformers; the layout we implement
};
constexpr std::array kIgnored = {"aux_loss_alpha", "ep_size", "seq_aux", "head_dim", "qk_head_dim"};

void check_experts(JsonReader& reader, const ModelConfig& c) {
  const std::string& place = reader.place();
  // The modelling code's own defaults are V3's (8 groups, 4 kept, 2.5): a value of ours for an
  // absent key would be wrong logits, and nothing else would show it.
  for (const char* key : {"n_group", "topk_group", "routed_scaling_factor"}) reader.require(key);
  if (c.num_experts_per_tok < 1 || c.moe_intermediate_size < 1)
    fail_model(place, ": n_routed_experts is ", c.n_routed_experts,
               " but num_experts_per_tok or moe_intermediate_size is missing");
  if (c.n_routed_experts % c.n_group != 0)
    fail_model(place, ": n_group ", c.n_group, " does not divide n_routed_experts ",
               c.n_routed_experts);
  if (c.topk_group > c.n_group)
    fail_model(place, ": topk_group ", c.topk_group, " is above n_group ", c.n_group);
  const int64_t eligible = c.topk_group * (c.n_routed_experts / c.n_group);
  if (c.num_experts_per_tok > eligible)
    fail_model(place, ": num_experts_per_tok ", c.num_experts_per_tok, " is above the ", eligible,
               " experts of topk_group ", c.topk_group, " groups");
}

}  // namespace

void read_deepseek_v3_config(JsonReader& reader, ModelConfig& c) {
  read_fields(reader, {kInts, kDoubles, kBools, kFixed, kIgnored}, c);
  c.scoring_func = ScoringFunc::kSigmoid;
  c.group_score = GroupScore::kTop2Sum;
  c.has_correction_bias = true;
  if (c.qk_rope_head_dim % 2 != 0)
    fail_model(reader.place(), ": qk_rope_head_dim ", c.qk_rope_head_dim, " is odd");
  if (c.n_routed_experts > 0) check_experts(reader, c);
}

}  // namespace dsr
