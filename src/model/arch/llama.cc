// LlamaForCausalLM (Touvron et al. 2023, arXiv:2302.13971), as DeepSeek LLM (arXiv:2401.02954) uses
// it: pre-norm, SwiGLU, MHA or GQA, half-split RoPE with linear or llama3 scaling.
#include "model/arch/llama.h"

#include <array>

#include "model/arch/shared_fields.h"
#include "model/config_fields.h"

namespace dsr {
namespace {

constexpr std::array kFixed = {FixedField{"attention_bias", "false"},
                               FixedField{"sliding_window", "null"}};

}  // namespace

void read_llama_config(JsonReader& reader, ModelConfig& c) {
  read_fields(reader, {{}, {}, {}, kFixed, {}}, c);
  read_gqa_fields(reader, c);
}

}  // namespace dsr
