// What the tensors of a model are for.
#pragma once

#include <cstddef>
#include <string_view>

#include "model/config.h"

namespace dsr {

// What a tensor is for; a checkpoint's bytes are the sum over these.
enum class Part {
  kEmbedding,
  kAttention,
  kRouter,
  kExperts,
  kSharedExperts,
  kDense,
  kNorms,
  kMtp,
  kHead,
  kScales,
  kOther,  // tensors that are known and not used
};
inline constexpr size_t kParts = static_cast<size_t>(Part::kOther) + 1;
const char* name(Part part);
// Of the tensor of this name.
Part part_of(std::string_view name, const ModelConfig& config);

}  // namespace dsr
