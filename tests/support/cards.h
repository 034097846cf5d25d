// models/NAME.json: the config.json facts of released checkpoints.
#pragma once

#include <filesystem>
#include <set>
#include <string>

#include "base/json.h"
#include "base/mapped_file.h"

namespace dsr::test {

inline std::string card_path(const std::string& name) {
  return DSR_SOURCE_DIR "/models/" + name + ".json";
}
inline Json card(const std::string& name) {
  return parse_json(read_file(card_path(name), 1 << 20), name);
}
inline std::set<std::string> card_names() {
  std::set<std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(DSR_SOURCE_DIR "/models"))
    if (entry.path().extension() == ".json") out.insert(entry.path().stem().string());
  return out;
}

}  // namespace dsr::test
