// Tables of tokens: the bytes of every id, and the id of a byte string.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "deepseek_run/tokenizer.h"

namespace dsr {

// The largest id that a tokenizer's files may name.
inline constexpr int64_t kMaxTokenId = (int64_t{1} << 21) - 1;

// The bytes of every id. Ids may have gaps.
class TokenBytes {
 public:
  // The id must not have an entry yet; `bytes` must not be empty.
  void add(TokenId id, std::string_view bytes);
  // Gives an id other bytes than it had.
  void replace(TokenId id, std::string_view bytes);

  bool has(TokenId id) const { return id >= 0 && id < limit() && !of(id).empty(); }
  // Empty if the id has no entry.
  std::string_view of(TokenId id) const {
    if (id < 0 || id >= limit()) return {};
    const Place& p = places_[static_cast<size_t>(id)];
    return std::string_view(arena_).substr(p.begin, p.size);
  }
  TokenId limit() const { return static_cast<TokenId>(places_.size()); }

 private:
  struct Place {
    uint32_t begin = 0, size = 0;
  };
  std::string arena_;
  std::vector<Place> places_;  // by id
};

// Byte string -> id, an open-addressing table. Strings of at most 8 bytes are compared in the slot
// itself, so that a common word costs one cache miss.
class ByteStringMap {
 public:
  struct Found {
    TokenId id = -1;        // -1: not found
    bool is_whole = false;  // set_whole was called for it
  };

  // `bytes` gives the strings of the ids and must outlive the map. `capacity` strings will fit.
  ByteStringMap(const TokenBytes& bytes, size_t capacity);

  // False if the string is in the map already. Throws Error(kModel) if a file was made so that
  // very many strings fall together.
  bool insert(TokenId id);
  Found find(std::string_view s) const;
  void set_whole(TokenId id);

 private:
  struct Slot {
    uint64_t key = 0;  // the bytes themselves if at most 8, else the hash
    TokenId id = -1;   // -1: empty
    uint32_t size : 31 = 0;
    uint32_t is_whole : 1 = 0;
  };
  // Where `s` is, or the empty slot where it belongs, or nowhere if there is no room for it.
  size_t locate(std::string_view s) const;

  const TokenBytes& bytes_;
  std::vector<Slot> slots_;  // a power of two
};

// (left id, right id) -> what BPE merges them into and how early.
class MergeTable {
 public:
  static constexpr uint32_t kNever = 0xFFFFFFFF;
  struct Merge {
    uint32_t rank = kNever;  // lower ranks merge first
    TokenId merged = -1;
  };

  explicit MergeTable(size_t capacity);
  // The last one wins if a pair comes twice. Throws Error(kModel) as ByteStringMap::insert.
  void insert(TokenId left, TokenId right, Merge merge);
  Merge find(TokenId left, TokenId right) const;

 private:
  struct Slot {
    uint64_t pair = kNoPair;
    Merge merge;
  };
  static constexpr uint64_t kNoPair = ~uint64_t{0};
  static uint64_t key_of(TokenId left, TokenId right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }
  size_t locate(uint64_t pair) const;  // as ByteStringMap::locate

  std::vector<Slot> slots_;  // a power of two
};

}  // namespace dsr
