// Philox4x32-10: a counter-based generator. The same (key, counter) gives the same four words on
// every backend, so a token drawn at a position depends on nothing but its seed and that position.
// Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC11.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

namespace dsr {

using PhiloxBlock = std::array<uint32_t, 4>;

constexpr PhiloxBlock philox4x32(uint64_t key, PhiloxBlock counter) {
  constexpr uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{kMultiplier0} * counter[0];
    const uint64_t p1 = uint64_t{kMultiplier1} * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ k0, static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  return counter;
}

// A 32-bit word as a float in the open interval (0, 1): (w >> 9 + 1/2) * 2^-23. 23 bits and the
// half are the 24 that a float holds: with one more, the largest words would round to 1.
constexpr float uniform_open(uint32_t word) {
  return (static_cast<float>(word >> 9) + 0.5f) * 0x1p-23f;
}

// A sequence of numbers for fixtures and random weights; each stream is independent.
class PhiloxStream {
 public:
  PhiloxStream(uint64_t seed, uint64_t stream) : seed_(seed), stream_(stream) {}

  uint32_t next_u32() {
    if (used_ == 4) {
      block_ =
          philox4x32(seed_, {static_cast<uint32_t>(counter_), static_cast<uint32_t>(counter_ >> 32),
                             static_cast<uint32_t>(stream_), static_cast<uint32_t>(stream_ >> 32)});
      ++counter_;
      used_ = 0;
    }
    return block_[static_cast<size_t>(used_++)];
  }
  float next_uniform() { return uniform_open(next_u32()); }
  // A standard normal deviate (Box and Muller 1958).
  float next_normal() {
    const float radius = std::sqrt(-2.0f * std::log(next_uniform()));
    return radius * std::cos(6.28318530717958647f * next_uniform());
  }

 private:
  uint64_t seed_, stream_, counter_ = 0;
  PhiloxBlock block_{};
  int used_ = 4;
};

}  // namespace dsr
