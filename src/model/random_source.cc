#include "model/random_source.h"

#include "model/declared_source.h"
#include "model/random_weights.h"

namespace dsr {

RandomSource::RandomSource(const ModelConfig& config, uint64_t seed) {
  const DeclaredSource declared(config);
  const RandomWeights weights(declared, seed);
  names_ = declared.names();
  entries_.reserve(names_.size());
  for (const std::string& name : names_) {
    Entry& entry = entries_[name];
    entry.tensor = *declared.find(name);
    entry.bytes.reserve(static_cast<size_t>(tensor_bytes(entry.tensor)));
    weights.generate(name, [&](std::string_view piece) { entry.bytes += piece; });
    entry.tensor.data = reinterpret_cast<const std::byte*>(entry.bytes.data());
  }
}

const SourceTensor* RandomSource::find(const std::string& name) const {
  const auto it = entries_.find(name);
  return it == entries_.end() ? nullptr : &it->second.tensor;
}

}  // namespace dsr
