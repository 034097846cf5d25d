#include "engine/sequence.h"

#include <algorithm>

#include "base/error.h"
#include "kv/kv_layout.h"

namespace dsr {

int64_t Sequence::start_prompt(std::span<const TokenId> prompt) {
  DSR_CHECK(!prompt.empty());
  const auto computed_end = tokens_.begin() + n_computed_;
  const auto first_difference =
      std::mismatch(tokens_.begin(), computed_end, prompt.begin(), prompt.end());
  const int64_t common = first_difference.first - tokens_.begin();
  const int64_t kept = std::min(common, static_cast<int64_t>(prompt.size()) - 1);
  truncate(kept);
  tokens_.assign(prompt.begin(), prompt.end());
  return kept;
}

bool Sequence::reserve(int64_t n) {
  const int64_t wanted = blocks_for(n) - static_cast<int64_t>(blocks_.size());
  if (wanted > pool_.n_free()) return false;
  for (int64_t i = 0; i < wanted; ++i) blocks_.push_back(pool_.take());
  return true;
}

void Sequence::mark_computed(int64_t count) {
  n_computed_ += count;
  DSR_CHECK(n_computed_ <= static_cast<int64_t>(tokens_.size()), n_computed_);
}

void Sequence::truncate(int64_t n) {
  n_computed_ = std::min(n_computed_, n);
  const auto keep = static_cast<size_t>(blocks_for(n));
  while (blocks_.size() > keep) {
    pool_.release(blocks_.back());
    blocks_.pop_back();
  }
}

}  // namespace dsr
