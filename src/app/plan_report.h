// What `plan` found, and how it is shown.
#pragma once

#include <string>
#include <vector>

#include "app/gpu_plan.h"
#include "deepseek_run/plan.h"

namespace dsr {

struct PlanFindings {
  std::string model;  // directory or card
  std::string architecture;
  std::string weights;  // "fp8"
  std::string cache_type;
  ModelSizes sizes;
  GpuPlan on_gpus;  // where gpus were named
  MemoryPlan here;  // where not
  bool has_gpus = false;
  std::vector<std::string> remedies;  // flags to try, the cheapest first

  bool fits() const { return has_gpus ? on_gpus.fits() : here.fits(); }
};

std::string report_text(const PlanFindings& findings);
std::string report_json(const PlanFindings& findings);

}  // namespace dsr
