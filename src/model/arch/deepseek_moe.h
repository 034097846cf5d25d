// DeepseekForCausalLM: DeepSeekMoE 16B.
#pragma once

#include "model/config.h"

namespace dsr {

void read_deepseek_moe_config(JsonReader& reader, ModelConfig& config);

}  // namespace dsr
