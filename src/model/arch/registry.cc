#include "model/arch/registry.h"

#include <array>

#include "base/error.h"
#include "model/arch/deepseek_v3.h"

namespace dsr {
namespace {

constexpr std::array kArchitectures = {
    Architecture{"DeepseekV3ForCausalLM", read_deepseek_v3_config},
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
