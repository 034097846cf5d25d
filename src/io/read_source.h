// The tensors of another source, copied into memory of our own.
#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/huge_memory.h"
#include "io/weight_source.h"

namespace dsr {

// Huge pages, every tensor at a multiple of 256 bytes; FP8 codes are looked at as they pass, so
// that nobody needs to look for NaN in them again. The other source is not read afterwards, but
// names and shapes are its own: it outlives this.
class ReadSource : public WeightSource {
 public:
  // Reads with as many threads as the machine runs at a time. Throws Error(kDoesNotFit).
  explicit ReadSource(const WeightSource& from);
  ReadSource(const ReadSource&) = delete;
  ReadSource& operator=(const ReadSource&) = delete;

  const SourceTensor* find(const std::string& name) const override;
  std::vector<std::string> names() const override { return names_; }

 private:
  std::vector<std::string> names_;
  std::unordered_map<std::string, SourceTensor> tensors_;
  std::optional<HugeMemory> memory_;
};

}  // namespace dsr
