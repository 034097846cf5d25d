#include "model/random_weights.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "tensor/dtype.h"

namespace dsr {
namespace {

constexpr float kLargestE4M3 = 448;
constexpr std::string_view kScaleSuffix = "_scale_inv";

// The value below which a standard normal deviate lies with probability p.
double normal_quantile(double p) {
  double low = -10, high = 10;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(-middle * std::sqrt(0.5)) < p ? low : high) = middle;
  }
  return low;
}

uint64_t fnv1a(std::string_view text) {
  uint64_t h = 0xcbf29ce484222325u;
  for (const char c : text) h = (h ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  return h;
}

// Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators": here for seeds.
uint64_t split_mix(uint64_t& state) {
  uint64_t z = state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// xorshift64* (Vigna 2016, arXiv:1402.6246). Four of them side by side: one waits for itself.
class Lanes {
 public:
  static constexpr size_t kLanes = 4;
  explicit Lanes(uint64_t seed) {
    for (uint64_t& s : state_) s = split_mix(seed) | 1;  // never 0
  }
  void next(std::array<uint64_t, kLanes>& out) {
    for (size_t i = 0; i < kLanes; ++i) {
      uint64_t s = state_[i];
      s ^= s >> 12;
      s ^= s << 25;
      s ^= s >> 27;
      state_[i] = s;
      out[i] = s * 0x2545f4914f6cdd1du;
    }
  }

 private:
  std::array<uint64_t, kLanes> state_;
};

// What a tensor's numbers look like: mean + deviation * normal.
struct Spread {
  double mean = 0, deviation = 1;
};

Spread spread_of(std::string_view name, const SourceTensor& t) {
  if (name.ends_with("e_score_correction_bias")) return {0, 0.01};
  if (name.ends_with(".bias")) return {0, 0.1};
  if (t.shape.size() == 1) return {1, 0.1};
  if (name.ends_with("embed_tokens.weight")) return {0, 0.02};
  const double gain = name.ends_with(".mlp.gate.weight") ? 2 : 1;
  return {0, gain / std::sqrt(static_cast<double>(t.shape[1]))};
}

// Whose numbers a tensor has.
std::string original_of(const std::string& name) {
  if (name.ends_with(".shared_head.head.weight")) return "lm_head.weight";
  return name.ends_with(".embed_tokens.weight") ? "model.embed_tokens.weight" : name;
}

}  // namespace

RandomWeights::RandomWeights(const WeightSource& source, uint64_t seed)
    : source_(source), seed_(seed) {
  for (size_t i = 0; i < kLevels; ++i)
    normal_[i] = static_cast<float>(
        normal_quantile((static_cast<double>(i) + 0.5) / static_cast<double>(kLevels)));
  for (size_t i = 0; i < kLevels; ++i)
    codes_[i] = f32_to_e4m3(normal_[i] / normal_.back() * kLargestE4M3);
}

template <typename T>
void RandomWeights::draw(uint64_t stream, int64_t n, const Table<T>& table,
                         const Sink& sink) const {
  constexpr size_t kPerWord = 64 / kIndexBits, kRound = kPerWord * Lanes::kLanes;
  constexpr size_t kPiece = kRound << 14;
  uint64_t seed = seed_;
  Lanes lanes(split_mix(seed) ^ stream);
  std::array<uint64_t, Lanes::kLanes> words;
  std::vector<T> piece(std::min(kPiece, (static_cast<size_t>(n) / kRound + 1) * kRound));
  for (auto left = static_cast<size_t>(n); left > 0;) {
    const size_t wanted = std::min(left, kPiece);
    for (T* out = piece.data(); out < piece.data() + wanted;) {
      lanes.next(words);
      for (uint64_t word : words)
        for (size_t i = 0; i < kPerWord; ++i, word >>= kIndexBits)
          *out++ = table[word & (kLevels - 1)];
    }
    sink({reinterpret_cast<const char*>(piece.data()), wanted * sizeof(T)});
    left -= wanted;
  }
}

void RandomWeights::generate(const std::string& name, const Sink& sink) const {
  const SourceTensor* t = source_.find(name);
  DSR_CHECK(t != nullptr && t->dtype, name);
  const uint64_t stream = fnv1a(original_of(name));
  int64_t n = 1;
  for (const int64_t d : t->shape) n *= d;
  if (*t->dtype == DType::kF8E4M3) return draw(stream, n, codes_, sink);

  Spread spread = spread_of(name, *t);
  if (name.ends_with(kScaleSuffix)) {
    const SourceTensor* w = source_.find(name.substr(0, name.size() - kScaleSuffix.size()));
    DSR_CHECK(w != nullptr, name);
    const double scale =
        normal_.back() / kLargestE4M3 / std::sqrt(static_cast<double>(w->shape[1]));
    // normal_ reaches 3.7 deviations; the factor stays within 3/4 and 5/4.
    spread = {scale, scale / 4 / static_cast<double>(normal_.back())};
  }
  const auto value = [&](size_t i) {
    return static_cast<float>(spread.mean + spread.deviation * static_cast<double>(normal_[i]));
  };
  if (*t->dtype == DType::kF32) {
    Table<float> table;
    for (size_t i = 0; i < kLevels; ++i) table[i] = value(i);
    return draw(stream, n, table, sink);
  }
  DSR_CHECK(*t->dtype == DType::kBF16, name);
  Table<uint16_t> table;
  for (size_t i = 0; i < kLevels; ++i) table[i] = f32_to_bf16(value(i));
  draw(stream, n, table, sink);
}

}  // namespace dsr
