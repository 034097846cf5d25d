#include "model/arch/registry.h"

#include <array>

#include "base/error.h"
#include "model/arch/deepseek_moe.h"
#include "model/arch/deepseek_v2.h"
#include "model/arch/deepseek_v3.h"
#include "model/arch/llama.h"
#include "model/arch/qwen2.h"

namespace dsr {
namespace {

constexpr std::array kArchitectures = {
    Architecture{"DeepseekForCausalLM", read_deepseek_moe_config},
    Architecture{"DeepseekV2ForCausalLM", read_deepseek_v2_config},
    Architecture{"DeepseekV3ForCausalLM", read_deepseek_v3_config},
    Architecture{"LlamaForCausalLM", read_llama_config},
    Architecture{"Qwen2ForCausalLM", read_qwen2_config},
};

}  // namespace

const Architecture& architecture(std::string_view name) {
  std::string known;
  for (const Architecture& a : kArchitectures) {
    if (name == a.name) return a;
    known += (known.empty() ? "" : ", ") + std::string(a.name);
  }
  fail_model("config.json: architecture ", quoted(name), " is not supported (supported: ", known,
             ")");
}

std::vector<std::string_view> architecture_names() {
  std::vector<std::string_view> out;
  for (const Architecture& a : kArchitectures) out.emplace_back(a.name);
  return out;
}

}  // namespace dsr
