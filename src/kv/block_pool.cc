#include "kv/block_pool.h"

#include <algorithm>

#include "base/error.h"

namespace dsr {

uint64_t prefix_hash(PrefixId before, std::span<const int32_t> ids) {
  // Multiply and fold, 64 bits (the finaliser of MurmurHash3, Appleby 2011, one round a word).
  uint64_t h = static_cast<uint64_t>(before) * 0x9E3779B97F4A7C15u;
  for (const int32_t id : ids) {
    h = (h ^ static_cast<uint32_t>(id)) * 0xFF51AFD7ED558CCDu;
    h ^= h >> 33;
  }
  return h;
}

BlockPool::BlockPool(int64_t n_blocks, Hash hash)
    : hash_(hash), blocks_(static_cast<size_t>(n_blocks)) {
  for (int64_t b = n_blocks; b > 0; --b) free_.push_back(static_cast<int32_t>(b - 1));
}

int32_t BlockPool::take() {
  if (free_.empty() && !unused_.empty()) {
    const int32_t oldest = unused_.front();
    unused_.pop_front();
    withdraw(oldest);
    free_.push_back(oldest);
  }
  if (free_.empty()) return -1;
  const int32_t block = free_.back();
  free_.pop_back();
  at(block).references = 1;
  return block;
}

void BlockPool::retain(int32_t block) {
  DSR_CHECK(at(block).references > 0, block);
  ++at(block).references;
}

void BlockPool::release(int32_t block) {
  Block& b = at(block);
  DSR_CHECK(b.references > 0, block);
  if (--b.references > 0) return;
  if (b.prefix == kNoTokens)
    free_.push_back(block);
  else
    b.in_unused = unused_.insert(unused_.end(), block);
}

PrefixId BlockPool::publish(int32_t block, PrefixId before, std::span<const int32_t> ids) {
  Block& b = at(block);
  DSR_CHECK(b.references > 0 && b.prefix == kNoTokens, block);
  if (look_up(before, ids) >= 0) return kNoTokens;
  b.prefix = ++last_prefix_;
  b.before = before;
  b.ids.assign(ids.begin(), ids.end());
  published_.emplace(hash_(before, ids), block);
  return b.prefix;
}

void BlockPool::unpublish(int32_t block) {
  DSR_CHECK(at(block).references == 1 && at(block).prefix != kNoTokens, block);
  withdraw(block);
}

BlockPool::Found BlockPool::find(PrefixId before, std::span<const int32_t> ids) {
  const int32_t block = look_up(before, ids);
  if (block < 0) return {};
  Block& b = at(block);
  if (b.references++ == 0) unused_.erase(b.in_unused);
  return {block, b.prefix};
}

int32_t BlockPool::look_up(PrefixId before, std::span<const int32_t> ids) const {
  const auto [first, last] = published_.equal_range(hash_(before, ids));
  const auto found = std::find_if(first, last, [&](const auto& entry) {
    const Block& b = at(entry.second);
    return b.before == before && std::equal(b.ids.begin(), b.ids.end(), ids.begin(), ids.end());
  });
  return found == last ? -1 : found->second;
}

void BlockPool::withdraw(int32_t block) {
  Block& b = at(block);
  const auto [first, last] = published_.equal_range(hash_(b.before, b.ids));
  const auto entry = std::find_if(first, last, [&](const auto& e) { return e.second == block; });
  DSR_CHECK(entry != last, block);
  published_.erase(entry);
  b.prefix = kNoTokens;
  b.ids.clear();
}

}  // namespace dsr
