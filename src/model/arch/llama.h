// LlamaForCausalLM: DeepSeek LLM 7B and 67B, Math, Prover, Coder v1, R1-Distill-Llama.
#pragma once

#include "model/config.h"

namespace dsr {

void read_llama_config(JsonReader& reader, ModelConfig& config);

}  // namespace dsr
