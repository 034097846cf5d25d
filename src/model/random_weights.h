// Weights for a shape, spread like trained ones: a model made of them runs with numbers of the
// usual size and answers with noise.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "io/weight_source.h"

namespace dsr {

// Matrices are normal with variance 1 / fan_in (the router's four times that), embeddings normal
// with deviation 0.02, norm weights 1 +- 0.1, biases +- 0.1, the router's correction bias +- 0.01.
// FP8 codes use the whole range of the type, as the vendor's do: the largest value of a block is
// 448 times its scale; scales vary by a quarter around what the variance asks for.
//
// A tensor depends on the seed and its name alone. The MTP layers' copies of the vocabulary equal
// the main matrices.
class RandomWeights {
 public:
  // `source` says types and shapes, and outlives this.
  RandomWeights(const WeightSource& source, uint64_t seed);

  // Gives the bytes of the tensor `name` of the source to `sink`, piece by piece.
  using Sink = std::function<void(std::string_view bytes)>;
  void generate(const std::string& name, const Sink& sink) const;

 private:
  // Equally probable values of a standard normal distribution. 12 bits choose one: five to a word
  // of the generator, and the table stays in the first-level cache.
  static constexpr int kIndexBits = 12;
  static constexpr size_t kLevels = size_t{1} << kIndexBits;
  template <typename T>
  using Table = std::array<T, kLevels>;

  template <typename T>
  void draw(uint64_t stream, int64_t n, const Table<T>& table, const Sink& sink) const;

  const WeightSource& source_;
  uint64_t seed_;
  Table<float> normal_;
  Table<uint8_t> codes_;  // e4m3, from -448 to 448
};

}  // namespace dsr
