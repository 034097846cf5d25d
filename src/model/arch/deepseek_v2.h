// DeepseekV2ForCausalLM: DeepSeek-V2, V2-Lite, V2.5, Coder-V2.
#pragma once

#include "model/config.h"

namespace dsr {

void read_deepseek_v2_config(JsonReader& reader, ModelConfig& config);

}  // namespace dsr
