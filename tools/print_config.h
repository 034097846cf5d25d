// What --print-config prints.
#pragma once

#include <string>

#include "tools/options.h"

namespace dsr {

// Each setting of the command, its value and where that comes from, as lines of a configuration
// file: read again with --config they mean the same. A value that is only known with the model
// loaded is empty, and said in words. The checkpoint's generation_config.json is read; that it
// cannot be is a warning.
std::string config_text(const Options& options);

}  // namespace dsr
