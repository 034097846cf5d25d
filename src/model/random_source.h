// Random weights in memory, as a source that a model loads like a checkpoint.
#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/huge_memory.h"
#include "io/weight_source.h"
#include "model/config.h"

namespace dsr {

// Every tensor that `config` declares (DeclaredSource), with values from RandomWeights. Owns all of
// them, in huge pages. The same config and seed give the same bytes, and the bytes of a directory
// that `make-random-checkpoint` writes.
class RandomSource : public WeightSource {
 public:
  // Filled by as many threads as the machine runs at a time: the values do not depend on them.
  RandomSource(const ModelConfig& config, uint64_t seed);
  RandomSource(const RandomSource&) = delete;  // tensors point into their bytes
  RandomSource& operator=(const RandomSource&) = delete;

  const SourceTensor* find(const std::string& name) const override;
  std::vector<std::string> names() const override { return names_; }

 private:
  std::vector<std::string> names_;
  std::unordered_map<std::string, SourceTensor> tensors_;
  std::optional<HugeMemory> memory_;
};

}  // namespace dsr
