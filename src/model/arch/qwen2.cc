// Qwen2ForCausalLM (arXiv:2407.10671): Llama with biases on q, k and v, sometimes with the
// embedding as its head.
#include "model/arch/qwen2.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "model/arch/shared_fields.h"
#include "model/config_fields.h"

namespace dsr {
namespace {

constexpr std::array kFixed = {FixedField{"use_sliding_window", "false"}};
// Without use_sliding_window they have no effect.
constexpr std::array kIgnored = {"sliding_window", "max_window_layers", "use_mrope"};

// What transformers 5 saves of use_sliding_window, one name per layer.
void check_layer_types(JsonReader& reader) {
  const Json* types = reader.optional("layer_types");
  if (types == nullptr) return;
  const bool all_full =
      types->is_array() &&
      std::all_of(types->as_array().begin(), types->as_array().end(),
                  [](const Json& t) { return t.is_string() && t.as_string() == "full_attention"; });
  if (!all_full)
    fail_model(reader.place(), ": layer_types is ", escaped(types->dump()),
               ", only \"full_attention\" is supported");
}

}  // namespace

void read_qwen2_config(JsonReader& reader, ModelConfig& c) {
  read_fields(reader, {{}, {}, {}, kFixed, kIgnored}, c);
  check_layer_types(reader);
  read_gqa_fields(reader, c);
  c.qkv_bias = true;
}

}  // namespace dsr
