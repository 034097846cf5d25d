// Which model to run.
#pragma once

#include <string>

#include "deepseek_run/log.h"
#include "tools/options.h"

namespace dsr {

// A directory, or "org/name" for one in the Hugging Face cache: the one that was chosen, else the
// small model that ships with the program, which is said to `note`. Throws Error(kModel) if there
// is none.
std::string find_model_dir(const ModelChoice& choice, const WarningSink& note);

// The last part of the path, or "org/name" in a Hugging Face cache, for the `model` field of an
// answer.
std::string model_name(const std::string& directory);

}  // namespace dsr
