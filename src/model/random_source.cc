#include "model/random_source.h"

#include <cstring>

#include "base/math.h"
#include "base/on_all_cores.h"
#include "device/memory.h"
#include "model/declared_source.h"
#include "model/random_weights.h"

namespace dsr {

RandomSource::RandomSource(const ModelConfig& config, uint64_t seed) {
  const DeclaredSource declared(config);
  const RandomWeights weights(declared, seed);
  names_ = declared.names();
  std::vector<int64_t> begin;
  int64_t bytes = 0;
  for (const std::string& name : names_) {
    begin.push_back(bytes);
    bytes += round_up(tensor_bytes(*declared.find(name)), kAlignBytes);
  }
  memory_.emplace(bytes);
  tensors_.reserve(names_.size());
  for (size_t i = 0; i < names_.size(); ++i) {
    SourceTensor& tensor = tensors_[names_[i]] = *declared.find(names_[i]);
    tensor.data = memory_->data() + begin[i];
    tensor.no_nan = true;  // RandomWeights makes none
  }
  on_all_cores(names_.size(), [&](size_t i) {
    std::byte* out = memory_->data() + begin[i];
    weights.generate(names_[i], [&](std::string_view piece) {
      std::memcpy(out, piece.data(), piece.size());
      out += piece.size();
    });
  });
}

const SourceTensor* RandomSource::find(const std::string& name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

}  // namespace dsr
