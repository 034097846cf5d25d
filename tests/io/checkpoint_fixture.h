// A model directory of two shards with an index, to be damaged by tests.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "support/expect_error.h"
#include "support/safetensors_writer.h"

namespace dsr::test {

inline constexpr const char* kShard1 = "model-00001-of-000002.safetensors";
inline constexpr const char* kShard2 = "model-00002-of-000002.safetensors";

inline std::string index_text(const std::vector<std::pair<std::string, std::string>>& weight_map,
                              const std::string& metadata = "") {
  Json map = Json::object();
  for (const auto& [tensor, file] : weight_map) map.set(tensor, file);
  return "{" + (metadata.empty() ? "" : "\"metadata\":" + metadata + ",") +
         "\"weight_map\":" + map.dump() + "}";
}

inline std::string shard(const std::vector<std::string>& names) {
  SafetensorsWriter w;
  for (const std::string& name : names) w.add(name, "U8", {2}, "xy");
  return w.bytes();
}

class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() {
    dir.write("config.json", R"({"hidden_size": 16})");
    dir.write(kShard1, shard({"a", "b"}));
    dir.write(kShard2, shard({"c"}));
    dir.write(kIndexFileName, index_text({{"c", kShard2}, {"a", kShard1}, {"b", kShard1}}));
  }

  Checkpoint open() {
    warnings.clear();
    return Checkpoint::open(dir.string(), [this](const std::string& w) { warnings.push_back(w); });
  }
  std::string refusal() {
    return error_of([this] { open(); });
  }
  void remove(const std::string& name) const { std::filesystem::remove_all(dir.path() / name); }

  const TempDir dir;
  std::vector<std::string> warnings;
};

}  // namespace dsr::test
