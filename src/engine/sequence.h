// The tokens of one conversation or prompt and where their keys are.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "deepseek_run/tokenizer.h"
#include "kv/block_pool.h"

namespace dsr {

// Lives in the scheduler. Blocks are taken as tokens arrive and given back by truncate. Full blocks
// are published as they are computed, and found where another sequence computed them: they are
// shared and no longer written. The block that is being written belongs to this sequence alone.
class Sequence {
 public:
  explicit Sequence(BlockPool& pool) : pool_(pool) {}
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;
  ~Sequence() { truncate(0); }

  const std::vector<TokenId>& tokens() const { return tokens_; }
  // The first n_computed() tokens have their keys in the cache.
  int64_t n_computed() const { return n_computed_; }
  const std::vector<int32_t>& blocks() const { return blocks_; }

  // Makes `prompt` the sequence's tokens and keeps the keys of the longest common prefix, less one
  // token if it is all of the prompt: the last token must be run to give logits. (Up to the start
  // of a block where the rest of it is shared.) Returns how many tokens were kept.
  int64_t start_prompt(std::span<const TokenId> prompt);
  void append(TokenId id) { tokens_.push_back(id); }

  // Takes over the blocks that follow and that others have computed, all but the last token's.
  // Returns for how many tokens.
  int64_t find_computed();
  // What a block is published under: its ids and what is before them.
  struct BlockKey {
    PrefixId before;
    std::span<const TokenId> ids;
  };
  // Of the block that will be computed next; without ids if it will not be published, or there are
  // not yet tokens enough to fill it.
  BlockKey next_key() const;

  // Blocks for the first `n` tokens; false (and nothing taken) if the pool has not enough.
  bool reserve(int64_t n);
  // The next `count` tokens are in the cache now.
  void mark_computed(int64_t count);
  // The same of keys that nobody computed: nothing of this sequence is published from now on.
  void assume_computed(int64_t count);
  // Gives back blocks that hold no computed token.
  void drop_unused_blocks() { truncate(n_computed_); }
  // Forgets all keys; the tokens stay and would be computed again.
  void forget_keys() { truncate(0); }

 private:
  // Forgets the keys from token `n` on and gives back the blocks that become empty.
  void truncate(int64_t n);
  std::span<const TokenId> ids_of_block(size_t block) const;
  PrefixId last_prefix() const { return prefixes_.empty() ? kNoTokens : prefixes_.back(); }

  BlockPool& pool_;
  std::vector<TokenId> tokens_;
  int64_t n_computed_ = 0;
  std::vector<int32_t> blocks_;
  std::vector<PrefixId> prefixes_;  // of the first blocks: those that are published
  bool publishes_ = true;
};

}  // namespace dsr
