#include "model/arch/shared_fields.h"

#include <array>

#include "base/error.h"
#include "model/config_fields.h"

namespace dsr {
namespace {

constexpr std::array kMlaInts = {
    IntField{"q_lora_rank", &ModelConfig::q_lora_rank, 1, kMaxWidth, 0},
    IntField{"kv_lora_rank", &ModelConfig::kv_lora_rank, 1, kMaxWidth, {}},
    IntField{"qk_nope_head_dim", &ModelConfig::qk_nope_head_dim, 1, kMaxWidth, {}},
    IntField{"qk_rope_head_dim", &ModelConfig::qk_rope_head_dim, 2, kMaxWidth, {}},
    IntField{"v_head_dim", &ModelConfig::v_head_dim, 1, kMaxWidth, {}},
};
constexpr std::array kMlaFixed = {
    FixedField{"attention_bias", "false"},
    FixedField{"rope_interleave", "true"},  // written by transformers; the layout we implement
};
// num_key_value_heads equals the heads and means nothing for MLA, and so does head_dim.
constexpr std::array kMlaIgnored = {"num_key_value_heads", "head_dim", "qk_head_dim"};

constexpr std::array kMoeInts = {
    IntField{"n_routed_experts", &ModelConfig::n_routed_experts, 1, kMaxExperts, 0},
    IntField{"n_shared_experts", &ModelConfig::n_shared_experts, 1, kMaxExperts, 0},
    IntField{"num_experts_per_tok", &ModelConfig::num_experts_per_tok, 1, kMaxExperts, 0},
    IntField{"moe_intermediate_size", &ModelConfig::moe_intermediate_size, 1, kMaxWidth, 0},
    IntField{"first_k_dense_replace", &ModelConfig::first_k_dense_replace, 0, kMaxLayers, 0},
    IntField{"moe_layer_freq", &ModelConfig::moe_layer_freq, 1, kMaxLayers, 1},
};
constexpr std::array kMoeDoubles = {
    DoubleField{"routed_scaling_factor", &ModelConfig::routed_scaling_factor, 1e-6, 1e6, 1.0},
};
// Training losses and placement.
constexpr std::array kMoeIgnored = {"aux_loss_alpha", "seq_aux", "ep_size", "router_aux_loss_coef"};

constexpr std::array kGroupInts = {
    IntField{"n_group", &ModelConfig::n_group, 1, kMaxExperts, 1},
    IntField{"topk_group", &ModelConfig::topk_group, 1, kMaxExperts, 1},
};

}  // namespace

void read_mla_fields(JsonReader& reader, ModelConfig& c) {
  read_fields(reader, {kMlaInts, {}, {}, kMlaFixed, kMlaIgnored}, c);
  c.attention = AttentionKind::kMla;
  if (c.qk_rope_head_dim % 2 != 0)
    fail_model(reader.place(), ": qk_rope_head_dim ", c.qk_rope_head_dim, " is odd");
  check_width(reader, "num_attention_heads x (qk_nope_head_dim + qk_rope_head_dim)",
              c.num_attention_heads, c.qk_head_dim());
  check_width(reader, "num_attention_heads x (qk_nope_head_dim + v_head_dim)",
              c.num_attention_heads, c.qk_nope_head_dim + c.v_head_dim);
}

void read_gqa_fields(JsonReader& reader, ModelConfig& c) {
  const int64_t H = c.num_attention_heads;
  c.attention = AttentionKind::kGqa;
  c.num_key_value_heads = reader.get_int("num_key_value_heads", 1, kMaxWidth, H);
  if (H % c.num_key_value_heads != 0)
    fail_model(reader.place(), ": num_key_value_heads ", c.num_key_value_heads,
               " does not divide num_attention_heads ", H);
  if (!reader.has("head_dim") && c.hidden_size % H != 0)
    fail_model(reader.place(), ": num_attention_heads ", H, " does not divide hidden_size ",
               c.hidden_size);
  c.head_dim = reader.get_int("head_dim", 2, kMaxWidth, c.hidden_size / H);
  if (c.head_dim % 2 != 0) fail_model(reader.place(), ": head_dim ", c.head_dim, " is odd");
  check_width(reader, "num_attention_heads x head_dim", H, c.head_dim);
}

void read_moe_fields(JsonReader& reader, ModelConfig& c) {
  read_fields(reader, {kMoeInts, kMoeDoubles, {}, {}, kMoeIgnored}, c);
}

void read_group_fields(JsonReader& reader, ModelConfig& c) {
  read_fields(reader, {kGroupInts, {}, {}, {}, {}}, c);
}

void check_moe_fields(const JsonReader& reader, const ModelConfig& c) {
  const std::string& place = reader.place();
  if (c.n_routed_experts == 0) return;
  if (c.num_experts_per_tok < 1 || c.moe_intermediate_size < 1)
    fail_model(place, ": n_routed_experts is ", c.n_routed_experts,
               " but num_experts_per_tok or moe_intermediate_size is missing");
  check_width(reader, "n_shared_experts x moe_intermediate_size", c.n_shared_experts,
              c.moe_intermediate_size);
  if (c.num_hidden_layers * c.n_routed_experts > kMaxExpertsOfAllLayers)
    fail_model(place, ": num_hidden_layers x n_routed_experts is ", c.num_hidden_layers, " x ",
               c.n_routed_experts, ", expected at most ", kMaxExpertsOfAllLayers);
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

}  // namespace dsr
