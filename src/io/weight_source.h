// Where a model's weights come from: a checkpoint on disk, or values made up for a shape.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "tensor/dtype.h"

namespace dsr {

// One tensor as its source describes it. Valid as long as the source.
struct SourceTensor {
  std::string dtype_name;      // as the file spells it: "BF16", "F8_E4M3", ...
  std::optional<DType> dtype;  // nullopt: a type that no model of ours uses
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;  // row-major, little-endian, any alignment; null where only
                                    // shapes exist (a plan without weights)
  std::string file;                 // base name of the file that holds it, for messages
  bool no_nan = false;              // F8_E4M3: it is known that no code is NaN
};

class WeightSource {
 public:
  virtual ~WeightSource() = default;
  // nullptr if there is no tensor of that name.
  virtual const SourceTensor* find(const std::string& name) const = 0;
  // Every name, in a fixed order.
  virtual std::vector<std::string> names() const = 0;
};

}  // namespace dsr
