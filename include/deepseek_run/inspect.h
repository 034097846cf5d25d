// What a checkpoint directory holds, without loading it.
#pragma once

#include <string>

#include "deepseek_run/log.h"

namespace dsr {

// Architecture, sizes by part, quantisation, context, KV per token, tensors by pattern. Throws
// Error(kModel) if the checkpoint is damaged or unsupported.
std::string inspect_text(const std::string& model_dir, const WarningSink& warn);
std::string inspect_json(const std::string& model_dir, const WarningSink& warn);  // one line

// architectures[0] of config.json, for choosing a chat format. Throws Error(kModel) if the file is
// missing, damaged, or of an architecture that is not supported.
std::string checkpoint_architecture(const std::string& model_dir);

}  // namespace dsr
