#include "model/random_source.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <future>
#include <thread>

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
    // Not value-initialised: every byte is written below.
    entry.bytes.reset(new std::byte[static_cast<size_t>(tensor_bytes(entry.tensor))]);
    entry.tensor.data = entry.bytes.get();
  }
  std::atomic<size_t> next = 0;
  const auto fill = [&] {
    for (size_t i = next++; i < names_.size(); i = next++) {
      std::byte* out = entries_.at(names_[i]).bytes.get();
      weights.generate(names_[i], [&](std::string_view piece) {
        std::memcpy(out, piece.data(), piece.size());
        out += piece.size();
      });
    }
  };
  std::vector<std::future<void>> others;
  for (unsigned t = 1; t < std::max(1u, std::thread::hardware_concurrency()); ++t)
    others.push_back(std::async(std::launch::async, fill));
  fill();
  for (std::future<void>& other : others) other.get();
}

const SourceTensor* RandomSource::find(const std::string& name) const {
  const auto it = entries_.find(name);
  return it == entries_.end() ? nullptr : &it->second.tensor;
}

}  // namespace dsr
