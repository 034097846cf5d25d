// Which files of a model directory hold its weights.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "deepseek_run/log.h"

namespace dsr {

struct ShardList {
  std::vector<std::string> files;  // bare names, in the order the weights are listed
  // (tensor, index into files) as model.safetensors.index.json lists them; empty without an index.
  std::vector<std::pair<std::string, int64_t>> tensors;
  bool has_index = false;
  std::optional<double> total_size;  // metadata.total_size; some writers make it 1.3e10
};

inline constexpr const char* kIndexFileName = "model.safetensors.index.json";

// Reads the index of `directory`, or finds model.safetensors, or a complete set of shards. All
// listed files exist; whether they are regular files is found when they are opened. Throws
// Error(kModel) naming everything that is missing, with the command that would fetch it.
ShardList list_shards(const std::string& directory, const WarningSink& warn);

}  // namespace dsr
