// Tiny checkpoints that need no weight files: every tensor is generated from a seed and its name by
// a definition that scripts/golden_weights.py states and shares, byte for byte.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "io/weight_source.h"
#include "model/config.h"

namespace dsr::test {

// tests/data/goldens/NAME.json.
struct TinySpec {
  std::string name;
  Json config;  // config.json as it would be published
  uint64_t seed = 0;
  std::string dtype = "BF16";       // of matrices that are not FP8, embeddings and norms
  std::string bias_dtype = "F32";   // of e_score_correction_bias
  double bias_offset = 0;           // added to e_score_correction_bias
  std::string scale_dtype = "F32";  // F32 or F8_E8M0
  bool mtp_copies = false;          // the MTP layer carries its own vocabulary matrices

  static TinySpec load(const std::string& name);
};

// The checkpoint of a spec, in memory. Its tensors may be changed after the fact, to be wrong in
// the way a test wants.
class TinyCheckpoint : public WeightSource {
 public:
  explicit TinyCheckpoint(const TinySpec& spec);
  explicit TinyCheckpoint(const std::string& name) : TinyCheckpoint(TinySpec::load(name)) {}
  TinyCheckpoint(const TinyCheckpoint&) = delete;  // tensors point into the entries
  TinyCheckpoint& operator=(const TinyCheckpoint&) = delete;

  const ModelConfig& config() const { return config_; }
  const Json& config_json() const { return spec_.config; }
  const SourceTensor* find(const std::string& name) const override;
  std::vector<std::string> names() const override;

  // Adds or replaces a tensor; the bytes are not checked against type and shape.
  void set(const std::string& name, const std::string& dtype, const std::vector<int64_t>& shape,
           std::string bytes);
  void erase(const std::string& name);
  const std::string& bytes(const std::string& name) const { return tensors_.at(name).bytes; }

  // Of all names and bytes; golden_weights.py computes the same.
  uint64_t digest() const;

  // Writes config.json and model.safetensors, or n_shards files with their index.
  void write(const std::string& directory, int n_shards = 1) const;

 private:
  struct Entry {
    SourceTensor tensor;
    std::string bytes;
  };

  TinySpec spec_;
  ModelConfig config_;
  std::map<std::string, Entry> tensors_;
};

}  // namespace dsr::test
