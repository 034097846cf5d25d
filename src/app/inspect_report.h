// What inspect found in a checkpoint, and how it is shown.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "app/parts.h"
#include "model/config.h"
#include "tensor/kv_format.h"

namespace dsr {

struct PartSize {
  int64_t tensors = 0;
  int64_t parameters = 0;  // elements; scales are none
  int64_t bytes = 0;
};

// Tensors that differ in nothing but the numbers of layer and expert.
struct TensorPattern {
  std::string pattern;  // "model.layers.*.mlp.experts.*.up_proj.weight"
  std::string dtype;    // as the file spells it
  std::vector<int64_t> shape;
  int64_t count = 0;
  int64_t bytes = 0;  // of all of them
};

struct Inspection {
  std::string directory;
  ModelConfig config;
  int64_t n_files = 0;
  bool has_mtp = false;  // the checkpoint holds the MTP layers that config.json speaks of
  std::array<PartSize, kParts> parts;
  std::vector<TensorPattern> patterns;  // sorted
  struct KvBytes {
    CacheType type;
    int64_t bytes_per_token;  // all layers
  };
  std::vector<KvBytes> kv;

  const PartSize& part(Part p) const { return parts[static_cast<size_t>(p)]; }
  PartSize total() const;
  // Parameters of the main layers that one token is multiplied with: all but the embedding, and of
  // the routed experts those that are chosen.
  int64_t active_parameters() const;
};

std::string report_text(const Inspection& inspection);
std::string report_json(const Inspection& inspection);

}  // namespace dsr
