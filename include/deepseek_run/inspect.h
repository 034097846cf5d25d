// What a checkpoint directory holds, without loading it.
#pragma once

#include <string>
#include <vector>

#include "deepseek_run/log.h"
#include "deepseek_run/sampling_params.h"

namespace dsr {

// Architecture, sizes by part, quantisation, context, KV per token, tensors by pattern. Throws
// Error(kModel) if the checkpoint is damaged or unsupported.
std::string inspect_text(const std::string& model_dir, const WarningSink& warn);
std::string inspect_json(const std::string& model_dir, const WarningSink& warn);  // one line

// architectures[0] of config.json, for choosing a chat format. Throws Error(kModel) if the file is
// missing, damaged, or of an architecture that is not supported.
std::string checkpoint_architecture(const std::string& model_dir);

// What generation_config.json says of sampling, over the built-in values.
struct SamplingDefaults {
  SamplingParams params;
  std::vector<std::string> keys;  // those of the file
};
// `warn` hears of a file that cannot be used; then, and where there is none, there are no keys.
SamplingDefaults checkpoint_sampling(const std::string& model_dir, const WarningSink& warn);

}  // namespace dsr
