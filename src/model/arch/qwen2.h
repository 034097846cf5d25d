// Qwen2ForCausalLM: R1-Distill-Qwen.
#pragma once

#include "model/config.h"

namespace dsr {

void read_qwen2_config(JsonReader& reader, ModelConfig& config);

}  // namespace dsr
