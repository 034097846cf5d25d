// Which blocks of the KV cache are in use, and which hold keys that others can use too. Host
// bookkeeping only; knows no memory.
#pragma once

#include <cstdint>
#include <list>
#include <span>
#include <unordered_map>
#include <vector>

namespace dsr {

// Names the tokens from position 0 to the end of a published block. Never used twice.
using PrefixId = int64_t;
inline constexpr PrefixId kNoTokens = 0;  // the prefix of a sequence's first block

// A hash of a block's ids and of what is in front of it.
uint64_t prefix_hash(PrefixId before, std::span<const int32_t> ids);

// Blocks are handed out one at a time and shared by reference counts. A full block can be published
// under its ids and the prefix before it: whoever wants the same tokens behind the same prefix
// finds it. A published block without references stays findable until its place is needed; the one
// unused for longest goes first. Ids are compared and not only their hashes, and the prefix is one
// that was compared, so that a block found holds the keys of exactly these tokens. Not thread-safe:
// the scheduler's thread owns it.
class BlockPool {
 public:
  using Hash = uint64_t (*)(PrefixId, std::span<const int32_t>);
  explicit BlockPool(int64_t n_blocks, Hash hash = prefix_hash);

  int64_t n_blocks() const { return static_cast<int64_t>(blocks_.size()); }
  // Blocks without references, published or not: take() can hand out so many.
  int64_t n_free() const { return static_cast<int64_t>(free_.size() + unused_.size()); }
  int64_t n_references(int32_t block) const { return at(block).references; }

  // A block with one reference that is not published; -1 if none is free.
  int32_t take();
  void retain(int32_t block);
  // Gives one reference back; the last one frees the block, or leaves it to be found.
  void release(int32_t block);

  // Lets others find a block that has a reference and that nobody will write again. Gives the
  // prefix that ends with it, or kNoTokens if an equal block is published already.
  PrefixId publish(int32_t block, PrefixId before, std::span<const int32_t> ids);
  // The opposite; only its one owner may, to write it.
  void unpublish(int32_t block);
  // Adds a reference to the block with these ids behind this prefix; a block of -1 if there is
  // none.
  struct Found {
    int32_t block = -1;
    PrefixId prefix = kNoTokens;
  };
  Found find(PrefixId before, std::span<const int32_t> ids);

 private:
  struct Block {
    int64_t references = 0;
    PrefixId prefix = kNoTokens;  // kNoTokens: not published
    PrefixId before = kNoTokens;
    std::vector<int32_t> ids = {};                // of a published block
    std::list<int32_t>::iterator in_unused = {};  // published and without references
  };
  const Block& at(int32_t block) const { return blocks_.at(static_cast<size_t>(block)); }
  Block& at(int32_t block) { return blocks_.at(static_cast<size_t>(block)); }
  // The published block, or -1.
  int32_t look_up(PrefixId before, std::span<const int32_t> ids) const;
  void withdraw(int32_t block);

  Hash hash_;
  std::vector<Block> blocks_;
  std::vector<int32_t> free_;  // not published; a stack: the block freed last is taken first
  std::list<int32_t> unused_;  // published, no references; the one unused for longest in front
  std::unordered_multimap<uint64_t, int32_t> published_;  // by hash
  PrefixId last_prefix_ = kNoTokens;
};

}  // namespace dsr
