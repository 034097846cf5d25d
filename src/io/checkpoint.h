// A model directory as Hugging Face publishes it: config.json and safetensors files.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/json.h"
#include "deepseek_run/log.h"
#include "io/safetensors.h"
#include "io/shard_list.h"
#include "io/weight_source.h"

namespace dsr {

// Owns the maps of all weight files. Opening reads the headers of all of them and checks them
// against the index, but no weights. A map needs no descriptor, so any number of shards works under
// a small `ulimit -n`. Move-only; what find() gave stays valid when the checkpoint is moved.
class Checkpoint : public WeightSource {
 public:
  // Throws Error(kModel). What is odd but harmless goes to `warn`, which may be empty.
  static Checkpoint open(const std::string& directory, const WarningSink& warn);

  const std::string& directory() const { return directory_; }
  const Json& config() const { return config_; }  // an object
  // generation_config.json: an object, or null where there is none.
  const Json& generation_config() const { return generation_config_; }

  const SourceTensor* find(const std::string& name) const override;
  // In the order of the index; without one, in the order of the files' headers.
  std::vector<std::string> names() const override;
  int64_t n_tensors() const { return static_cast<int64_t>(order_.size()); }
  int64_t total_bytes() const { return total_bytes_; }  // of all tensors
  const std::vector<SafetensorsFile>& files() const { return files_; }

  // Throws Error(kModel) if a weight file changed since it was opened. The other files were read
  // whole when the checkpoint was opened.
  void check_unchanged() const;

 private:
  struct Place {
    const StoredTensor* tensor;
    int64_t file;  // index into files_
    bool listed;   // in the order already
  };

  void index_names();
  void put_in_order(const ShardList& shards, const WarningSink& warn);

  std::string directory_;
  Json config_, generation_config_;
  std::vector<SafetensorsFile> files_;
  std::unordered_map<std::string_view, Place> by_name_;  // views of the names in files_
  std::vector<const StoredTensor*> order_;
  int64_t total_bytes_ = 0;
};

}  // namespace dsr
