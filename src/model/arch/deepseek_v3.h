// DeepseekV3ForCausalLM: DeepSeek-V3, R1, V3.1 and models of the same design.
#pragma once

#include "model/config.h"

namespace dsr {

void read_deepseek_v3_config(JsonReader& reader, ModelConfig& config);

}  // namespace dsr
