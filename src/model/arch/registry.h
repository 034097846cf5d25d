// The architectures this program knows: one file each, one row each.
#pragma once

#include <string_view>
#include <vector>

#include "model/config.h"

namespace dsr {

struct Architecture {
  const char* name;  // architectures[0] of config.json
  // Reads and checks what this architecture has beyond the fields all share.
  void (*read_config)(JsonReader& reader, ModelConfig& config);
};

// Throws Error(kModel) that lists the supported names.
const Architecture& architecture(std::string_view name);
std::vector<std::string_view> architecture_names();

}  // namespace dsr
