// A model that is known by its config and the shapes of its weights: what can be planned before
// anything is loaded.
#pragma once

#include <optional>

#include "engine/device_choice.h"
#include "engine/memory_plan.h"
#include "io/checkpoint.h"

namespace dsr {

class PlannedModel {
 public:
  explicit PlannedModel(const EngineOptions& options);

  const std::optional<Checkpoint>& checkpoint() const { return checkpoint_; }  // none: random
  const ModelConfig& config() const { return config_; }
  const DeviceChoice& device() const { return device_; }
  // With the same model and device, other sizes. Throws Error(kUsage) for options out of range;
  // does not if nothing fits.
  PlannedRun plan(const EngineOptions& options) const;

 private:
  ModelConfig config_of(const EngineOptions& options) const;

  std::optional<Checkpoint> checkpoint_;
  ModelConfig config_;
  DeviceChoice device_;
};

}  // namespace dsr
