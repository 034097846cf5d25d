// What `plan` found, and how it is shown.
#pragma once

#include <string>
#include <vector>

#include "app/gpu_plan.h"
#include "deepseek_run/plan.h"

namespace dsr {

// What else would fit.
struct Room {
  int64_t ctx_size = 0;        // tokens of one sequence
  bool whole_context = false;  // that is all that the model has
  int64_t max_seqs = 0;        // sequences of the planned context
};

struct PlanFindings {
  std::string model;  // directory or card
  std::string architecture;
  std::string weights;  // "fp8"
  std::string cache_type;
  ModelSizes sizes;
  GpuPlan on_gpus;  // where gpus were named
  MemoryPlan here;  // where not
  bool has_gpus = false;
  Room room;  // where it fits
  DecodeFloors floors;
  std::vector<std::string> remedies;  // flags to try, the cheapest first

  bool fits() const { return has_gpus ? on_gpus.fits() : here.fits(); }
};

std::string report_text(const PlanFindings& findings);
std::string report_json(const PlanFindings& findings);

}  // namespace dsr
