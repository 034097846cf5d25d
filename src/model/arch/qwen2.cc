// Qwen2ForCausalLM (arXiv:2407.10671): Llama with biases on q, k and v, sometimes with the
// embedding as its head.
#include "model/arch/qwen2.h"

#include <array>

#include "model/arch/shared_fields.h"
#include "model/config_fields.h"

namespace dsr {
namespace {

constexpr std::array kFixed = {FixedField{"use_sliding_window", "false"}};
// Without use_sliding_window they have no effect.
constexpr std::array kIgnored = {"sliding_window", "max_window_layers", "use_mrope"};

}  // namespace

void read_qwen2_config(JsonReader& reader, ModelConfig& c) {
  read_fields(reader, {{}, {}, {}, kFixed, kIgnored}, c);
  read_gqa_fields(reader, c);
  c.qkv_bias = true;
}

}  // namespace dsr
