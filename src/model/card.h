// Cards: the config.json facts of a checkpoint that is not there.
#pragma once

#include <string>

#include "base/json.h"
#include "model/declared_source.h"

namespace dsr {

// The object in a card. Throws Error(kModel).
Json read_card(const std::string& path);
// "bf16" or "fp8"; throws Error(kUsage).
WeightFormat weight_format(const std::string& name);
// The model of a card with weights as "bf16", "fp8" or, if empty, as released, and the first
// `layers` of its layers (0: all), without MTP layers.
ModelConfig card_model(const std::string& path, const std::string& weights, int64_t layers,
                       const WarningSink& warn);

}  // namespace dsr
