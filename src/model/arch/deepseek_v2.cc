// DeepseekV2ForCausalLM (arXiv:2405.04434): MLA, softmax gate, experts chosen over all (greedy) or
// within the groups whose best expert scores highest (group_limited_greedy).
#include "model/arch/deepseek_v2.h"

#include <array>

#include "base/error.h"
#include "model/arch/shared_fields.h"
#include "model/config_fields.h"

namespace dsr {
namespace {

constexpr std::array kBools = {BoolField{"norm_topk_prob", &ModelConfig::norm_topk_prob, false}};
constexpr std::array kFixed = {FixedField{"scoring_func", "\"softmax\""}};

}  // namespace

void read_deepseek_v2_config(JsonReader& reader, ModelConfig& c) {
  read_fields(reader, {{}, {}, kBools, kFixed, {}}, c);
  read_mla_fields(reader, c);
  read_moe_fields(reader, c);
  read_group_fields(reader, c);
  c.scoring_func = ScoringFunc::kSoftmax;
  c.group_score = GroupScore::kMax;
  const std::string method = reader.get_string("topk_method", "greedy");
  if (method == "greedy") {
    c.n_group = c.topk_group = 1;  // groups are stated but play no part
  } else if (method != "group_limited_greedy") {
    fail_model(reader.place(), ": topk_method ", quoted(method),
               " is not supported (supported: greedy, group_limited_greedy)");
  }
  check_moe_fields(reader, c);
  // The modelling code of V2 normalises or scales, never both.
  if (c.norm_topk_prob) c.routed_scaling_factor = 1;
}

}  // namespace dsr
