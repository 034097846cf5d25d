#include "text/token_table.h"

#include <bit>
#include <cstring>

#include "base/error.h"

namespace dsr {
namespace {

// How far from its home slot an entry may lie, so that every search ends. Tables are at most half
// full: only a file made for it needs more.
constexpr size_t kMaxProbes = 256;

size_t slots_for(size_t capacity) { return std::bit_ceil(2 * capacity + 16); }

// Mixes all bits of a word into its high half (the finaliser of MurmurHash3, Appleby 2011).
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdULL;
  x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53ULL;
  return x ^ (x >> 33);
}

// At most 8 bytes as one word.
uint64_t word_of(const char* p, size_t size) {
  uint64_t w = 0;
  std::memcpy(&w, p, size);
  return w;
}

uint64_t key_of(std::string_view s) {
  if (s.size() <= 8) return word_of(s.data(), s.size());
  uint64_t h = s.size();
  size_t i = 0;
  for (; i + 8 <= s.size(); i += 8) h = mix(h ^ word_of(s.data() + i, 8));
  return mix(h ^ word_of(s.data() + i, s.size() - i));
}

constexpr size_t kNowhere = ~size_t{0};

[[noreturn]] void fail_crowded() {
  fail_model("tokenizer.json: vocabulary or merges made to collide in our tables");
}

}  // namespace

void TokenBytes::add(TokenId id, std::string_view bytes) {
  DSR_CHECK(!has(id) && !bytes.empty(), id);
  replace(id, bytes);
}

void TokenBytes::replace(TokenId id, std::string_view bytes) {
  const auto index = static_cast<size_t>(id);
  if (index >= places_.size()) places_.resize(index + 1);
  places_[index] = {static_cast<uint32_t>(arena_.size()), static_cast<uint32_t>(bytes.size())};
  arena_ += bytes;
}

ByteStringMap::ByteStringMap(const TokenBytes& bytes, size_t capacity)
    : bytes_(bytes), slots_(slots_for(capacity)) {}

size_t ByteStringMap::locate(std::string_view s) const {
  const uint64_t key = key_of(s);
  const size_t mask = slots_.size() - 1;
  const size_t home = mix(key + s.size()) & mask;
  for (size_t probe = 0; probe < kMaxProbes; ++probe) {
    const size_t i = (home + probe) & mask;
    const Slot& slot = slots_[i];
    if (slot.id < 0) return i;
    if (slot.key == key && slot.size == s.size() && (s.size() <= 8 || bytes_.of(slot.id) == s))
      return i;
  }
  return kNowhere;
}

bool ByteStringMap::insert(TokenId id) {
  const std::string_view s = bytes_.of(id);
  const size_t at = locate(s);
  if (at == kNowhere) fail_crowded();
  Slot& slot = slots_[at];
  if (slot.id >= 0) return false;
  slot.key = key_of(s);
  slot.id = id;
  slot.size = static_cast<uint32_t>(s.size()) & 0x7FFFFFFF;
  return true;
}

ByteStringMap::Found ByteStringMap::find(std::string_view s) const {
  const size_t at = locate(s);
  if (at == kNowhere) return {};
  return {slots_[at].id, slots_[at].is_whole != 0};
}

void ByteStringMap::set_whole(TokenId id) {
  Slot& slot = slots_[locate(bytes_.of(id))];
  DSR_CHECK(slot.id == id, id);
  slot.is_whole = 1;
}

MergeTable::MergeTable(size_t capacity) : slots_(slots_for(capacity)) {}

size_t MergeTable::locate(uint64_t pair) const {
  const size_t mask = slots_.size() - 1;
  const size_t home = mix(pair) & mask;
  for (size_t probe = 0; probe < kMaxProbes; ++probe) {
    const size_t i = (home + probe) & mask;
    if (slots_[i].pair == pair || slots_[i].pair == kNoPair) return i;
  }
  return kNowhere;
}

void MergeTable::insert(TokenId left, TokenId right, Merge merge) {
  const uint64_t pair = key_of(left, right);
  const size_t at = locate(pair);
  if (at == kNowhere) fail_crowded();
  slots_[at] = {pair, merge};
}

MergeTable::Merge MergeTable::find(TokenId left, TokenId right) const {
  const size_t at = locate(key_of(left, right));
  return at == kNowhere ? Merge{} : slots_[at].merge;
}

}  // namespace dsr
