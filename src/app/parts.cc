#include "app/parts.h"

#include <algorithm>
#include <array>
#include <charconv>

namespace dsr {
namespace {

// The number after "model.layers.", or -1.
int64_t layer_of(std::string_view name) {
  constexpr std::string_view kPrefix = "model.layers.";
  int64_t layer = -1;
  if (name.starts_with(kPrefix))
    std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), layer);
  return layer;
}

// The first row whose words the name holds.
struct PartRow {
  std::string_view words;
  Part part;
};
constexpr std::array kPartRows = {
    PartRow{"model.embed_tokens.", Part::kEmbedding},
    PartRow{"lm_head.", Part::kHead},
    PartRow{".rotary_emb.", Part::kOther},
    PartRow{".self_attn.", Part::kAttention},
    PartRow{".mlp.experts.", Part::kExperts},
    PartRow{".mlp.shared_experts.", Part::kSharedExperts},
    PartRow{".mlp.gate.", Part::kRouter},
    PartRow{".mlp.", Part::kDense},
    PartRow{"norm.", Part::kNorms},
};

}  // namespace

const char* name(Part part) {
  switch (part) {
    case Part::kEmbedding:
      return "embedding";
    case Part::kAttention:
      return "attention";
    case Part::kRouter:
      return "router";
    case Part::kExperts:
      return "experts";
    case Part::kSharedExperts:
      return "shared experts";
    case Part::kDense:
      return "dense";
    case Part::kNorms:
      return "norms";
    case Part::kMtp:
      return "mtp";
    case Part::kHead:
      return "head";
    case Part::kScales:
      return "scales";
    case Part::kOther:
      return "other";
  }
  return "";
}

Part part_of(std::string_view name, const ModelConfig& config) {
  if (layer_of(name) >= config.num_hidden_layers) return Part::kMtp;
  if (name.ends_with("_scale_inv")) return Part::kScales;
  const auto row = std::find_if(kPartRows.begin(), kPartRows.end(),
                                [&](const PartRow& r) { return name.find(r.words) != name.npos; });
  if (row != kPartRows.end()) return row->part;
  return name.find("layernorm.") != name.npos ? Part::kNorms : Part::kOther;
}

}  // namespace dsr
