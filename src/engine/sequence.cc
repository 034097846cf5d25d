#include "engine/sequence.h"

#include <algorithm>

#include "base/error.h"
#include "kv/kv_layout.h"

namespace dsr {
namespace {

// Whole blocks of `n` tokens.
size_t full_blocks(int64_t n) { return static_cast<size_t>(n / kPageTokens); }

}  // namespace

int64_t Sequence::start_prompt(std::span<const TokenId> prompt) {
  DSR_CHECK(!prompt.empty());
  const auto computed_end = tokens_.begin() + n_computed_;
  const auto first_difference =
      std::mismatch(tokens_.begin(), computed_end, prompt.begin(), prompt.end());
  const int64_t common = first_difference.first - tokens_.begin();
  truncate(std::min(common, static_cast<int64_t>(prompt.size()) - 1));
  tokens_.assign(prompt.begin(), prompt.end());
  return n_computed_;
}

std::span<const TokenId> Sequence::ids_of_block(size_t block) const {
  constexpr auto kSize = static_cast<size_t>(kPageTokens);
  return std::span(tokens_).subspan(block * kSize, kSize);
}

int64_t Sequence::find_computed() {
  const int64_t before = n_computed_;
  const size_t most = full_blocks(static_cast<int64_t>(tokens_.size()) - 1);
  while (publishes_ && n_computed_ % kPageTokens == 0) {
    const size_t next = blocks_.size();
    if (next != full_blocks(n_computed_) || prefixes_.size() != next || next >= most) break;
    const BlockPool::Found found = pool_.find(last_prefix(), ids_of_block(next));
    if (found.block < 0) break;
    blocks_.push_back(found.block);
    prefixes_.push_back(found.prefix);
    n_computed_ += kPageTokens;
  }
  return n_computed_ - before;
}

Sequence::BlockKey Sequence::next_key() const {
  const size_t next = full_blocks(n_computed_);
  if (!publishes_ || prefixes_.size() != next) return {};
  if (next >= full_blocks(static_cast<int64_t>(tokens_.size()))) return {};
  return {last_prefix(), ids_of_block(next)};
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
  while (publishes_ && prefixes_.size() < full_blocks(n_computed_)) {
    const size_t next = prefixes_.size();
    const PrefixId prefix = pool_.publish(blocks_[next], last_prefix(), ids_of_block(next));
    // Another sequence was faster with the same tokens: from here on this one's are its own.
    if (prefix == kNoTokens) publishes_ = false;
    if (prefix != kNoTokens) prefixes_.push_back(prefix);
  }
}

void Sequence::assume_computed(int64_t count) {
  publishes_ = false;
  mark_computed(count);
}

void Sequence::truncate(int64_t n) {
  n = std::min(n_computed_, n);
  auto keep = static_cast<size_t>(blocks_for(n));
  if (n % kPageTokens != 0 && prefixes_.size() >= keep) {
    // The next token goes into a published block: take it back, or leave it to the others.
    if (pool_.n_references(blocks_[keep - 1]) == 1) {
      pool_.unpublish(blocks_[keep - 1]);
      prefixes_.resize(keep - 1);
    } else {
      n = static_cast<int64_t>(--keep) * kPageTokens;
    }
  }
  n_computed_ = n;
  // From the end: of blocks that nobody uses the beginning of a prefix goes last.
  while (blocks_.size() > keep) {
    pool_.release(blocks_.back());
    blocks_.pop_back();
  }
  prefixes_.resize(std::min(prefixes_.size(), keep));
  if (n == 0) publishes_ = true;
}

}  // namespace dsr
