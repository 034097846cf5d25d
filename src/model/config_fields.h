// Declarative tables of config.json fields: key, where it goes, range, whether it may be absent.
#pragma once

#include <optional>
#include <span>

#include "model/config.h"

namespace dsr {

struct IntField {
  const char* key;
  int64_t ModelConfig::*member;
  int64_t min, max;
  std::optional<int64_t> fallback;  // for an absent or null key; nullopt: the key is required
};

struct DoubleField {
  const char* key;
  double ModelConfig::*member;
  double min, max;
  std::optional<double> fallback;
};

struct BoolField {
  const char* key;
  bool ModelConfig::*member;
  bool fallback;
};

// A key that changes the mathematics in ways we do not implement: it must be absent, null or have
// this value (as compact JSON text).
struct FixedField {
  const char* key;
  const char* value;
};

// What one architecture adds to the fields all of them share.
struct ArchitectureFields {
  std::span<const IntField> ints;
  std::span<const DoubleField> doubles;
  std::span<const BoolField> bools;
  std::span<const FixedField> fixed;
  std::span<const char* const> ignored;  // keys without influence on the forward pass
};

// Refuses a product of two fields that no layer is as wide as.
void check_width(const JsonReader& reader, const char* what, int64_t a, int64_t b);

void read_fields(JsonReader& reader, const ArchitectureFields& fields, ModelConfig& config);

// Limits that keep every product of two sizes well inside int64 and refuse absurd files early.
inline constexpr int64_t kMaxWidth = 1 << 20;  // any single dimension of a layer
inline constexpr int64_t kMaxLayers = 1024;
inline constexpr int64_t kMaxExperts = 1 << 14;
inline constexpr int64_t kMaxExpertsOfAllLayers = 1 << 16;  // Kimi-K2 has 23,040
inline constexpr int64_t kMaxVocab = 1 << 22;
inline constexpr int64_t kMaxPositions = 1 << 24;

}  // namespace dsr
