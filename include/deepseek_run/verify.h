// Whether a checkpoint's weight files are what was published.
#pragma once

#include <string>

#include "deepseek_run/log.h"

namespace dsr {

struct VerifyReport {
  std::string text;  // a line for each file, and one for all
  bool ok = false;   // no file differs and no FP8 value is NaN
};

// Reads every weight file. In a Hugging Face cache a weight file is a link to a blob whose name is
// its SHA-256: those are compared; of others only the layout is checked. Counts the NaN codes of
// FP8 tensors: published ones have none. Throws Error(kModel) if files are missing.
VerifyReport verify_checkpoint(const std::string& model_dir, const WarningSink& warn);

}  // namespace dsr
