// DeepseekV3ForCausalLM (arXiv:2412.19437): MLA, sigmoid gate with a correction bias for the choice
// alone (auxiliary-loss-free balancing), groups scored by their two best experts, one or more MTP
// layers behind the main ones.
#include "model/arch/deepseek_v3.h"

#include <array>

#include "model/arch/shared_fields.h"
#include "model/config_fields.h"

namespace dsr {
namespace {

constexpr std::array kInts = {
    IntField{"num_nextn_predict_layers", &ModelConfig::num_nextn_predict_layers, 0, 16, 0},
};
constexpr std::array kBools = {
    BoolField{"norm_topk_prob", &ModelConfig::norm_topk_prob, true},
};
constexpr std::array kFixed = {
    FixedField{"scoring_func", "\"sigmoid\""},
    FixedField{"topk_method", "\"noaux_tc\""},
};

}  // namespace

void read_deepseek_v3_config(JsonReader& reader, ModelConfig& c) {
  read_fields(reader, {kInts, {}, kBools, kFixed, {}}, c);
  read_mla_fields(reader, c);
  read_moe_fields(reader, c);
  read_group_fields(reader, c);
  // The modelling code's own defaults are V3's (8 groups, 4 kept, 2.5): a value of ours for an
  // absent key would be wrong logits, and nothing else would show it.
  if (c.n_routed_experts > 0)
    for (const char* key : {"n_group", "topk_group", "routed_scaling_factor"}) reader.require(key);
  check_moe_fields(reader, c);
  c.scoring_func = ScoringFunc::kSigmoid;
  c.group_score = GroupScore::kTop2Sum;
  c.has_correction_bias = true;
}

}  // namespace dsr
