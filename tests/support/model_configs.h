// The released checkpoints' config.json files, where this machine has them.
#pragma once

#include <unistd.h>

#include <string>

#include "base/json.h"
#include "base/mapped_file.h"

namespace dsr::test {

inline std::string model_config_path(const std::string& name) {
  return DSR_SOURCE_DIR "/../shared/model-configs/" + name + ".json";
}
inline bool has_model_config(const std::string& name) {
  return ::access(model_config_path(name).c_str(), R_OK) == 0;
}
inline Json model_config(const std::string& name) {
  return parse_json(read_file(model_config_path(name), 1 << 20), name);
}

}  // namespace dsr::test

// In a test body: skips by name where the file is not there.
#define DSR_NEEDS_MODEL_CONFIG(name)        \
  if (!::dsr::test::has_model_config(name)) \
  GTEST_SKIP() << "no ../shared/model-configs/" << (name) << ".json"
