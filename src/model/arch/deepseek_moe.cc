// DeepseekForCausalLM (DeepSeekMoE, arXiv:2401.06066): Llama attention, many small experts chosen
// by a softmax gate, shared experts for every token.
#include "model/arch/deepseek_moe.h"

#include <array>

#include "model/arch/shared_fields.h"
#include "model/config_fields.h"

namespace dsr {
namespace {

constexpr std::array kBools = {BoolField{"norm_topk_prob", &ModelConfig::norm_topk_prob, false}};
constexpr std::array kFixed = {
    FixedField{"scoring_func", "\"softmax\""},
    FixedField{"attention_bias", "false"},
};

}  // namespace

void read_deepseek_moe_config(JsonReader& reader, ModelConfig& c) {
  read_fields(reader, {{}, {}, kBools, kFixed, {}}, c);
  read_gqa_fields(reader, c);
  read_moe_fields(reader, c);
  check_moe_fields(reader, c);
  c.scoring_func = ScoringFunc::kSoftmax;
  c.routed_scaling_factor = 1;  // the modelling code has none
}

}  // namespace dsr
