// Fields of config.json that several architectures share.
#pragma once

#include "model/config.h"

namespace dsr {

// kv_lora_rank, qk_nope_head_dim, ...: sets ModelConfig::attention to MLA.
void read_mla_fields(JsonReader& reader, ModelConfig& config);

// num_key_value_heads, head_dim: sets ModelConfig::attention to GQA.
void read_gqa_fields(JsonReader& reader, ModelConfig& config);

// n_routed_experts and what goes with it; no experts where it is absent. Checked against each other
// by check_moe_fields, once the groups are known.
void read_moe_fields(JsonReader& reader, ModelConfig& config);
void check_moe_fields(const JsonReader& reader, const ModelConfig& config);

// n_group, topk_group.
void read_group_fields(JsonReader& reader, ModelConfig& config);

}  // namespace dsr
