#include "kv/kv_cache.h"

#include <algorithm>
#include <vector>

#include "base/error.h"

namespace dsr {

KvCache::KvCache(Exec& exec, const KvLayout& layout, int64_t n_blocks)
    : layout_(layout),
      n_blocks_(n_blocks),
      buffer_(exec, MemoryKind::kKvCache, n_blocks * layout.bytes_per_block()) {}

void KvCache::fill() {
  // Bytes that make numbers of about 0.01 as float32 and bf16, and about 1.5 as e4m3, whose scales
  // are float32 again. One generator step gives the choice for eight bytes.
  constexpr int64_t kPatternBytes = int64_t{1} << 24;
  std::vector<uint64_t> pattern(static_cast<size_t>(std::min(kPatternBytes, buffer_.size_bytes())) /
                                8);
  uint64_t state = 1;
  for (uint64_t& bytes : pattern) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    bytes = 0x3c3c3c3c3c3c3c3cu | ((state >> 7) & 0x0101010101010101u);
  }
  for (int64_t first = 0; first < buffer_.size_bytes(); first += kPatternBytes)
    buffer_.upload(first, pattern.data(), std::min(kPatternBytes, buffer_.size_bytes() - first));
}

Tensor KvCache::pages(int64_t layer) const {
  DSR_CHECK(layer >= 0 && layer < layout_.n_layers, layer);
  const int64_t layer_bytes = n_blocks_ * layout_.page_bytes();
  const std::byte* data =
      buffer_.data() == nullptr ? nullptr : buffer_.data() + layer * layer_bytes;
  return Tensor::of(data, DType::kU8, {n_blocks_, layout_.page_bytes()});
}

MlaCacheView KvCache::mla(int64_t layer) const {
  return {std::get<MlaRowFormat>(layout_.format), pages(layer)};
}

GqaCacheView KvCache::gqa(int64_t layer) const {
  return {std::get<GqaPageFormat>(layout_.format), pages(layer)};
}

}  // namespace dsr
