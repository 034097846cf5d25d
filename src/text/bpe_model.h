// Byte-pair encoding of one piece (Sennrich et al. 2016, arXiv:1508.07909, over bytes as in GPT-2):
// start from single bytes; while any two neighbours have a merge, merge the pair of lowest rank,
// the leftmost first. The "model" of a tokenizer.json.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/token_table.h"

namespace dsr {

class BpeModel {
 public:
  // `json` is the "model" member. The bytes of its entries go into `bytes`, which must outlive the
  // model. Throws Error(kModel) naming `place` and the field.
  BpeModel(const Json& json, const std::string& place, TokenBytes& bytes);

  // Appends the ids of a piece. If one of its bytes has no entry: stops and returns its index, else
  // -1. Takes O(n log n) for n bytes.
  int64_t encode(std::string_view piece, std::vector<TokenId>& out) const;

  // The entry with exactly these bytes, or -1.
  TokenId find(std::string_view bytes) const { return by_bytes_.find(bytes).id; }

 private:
  void read_vocabulary(const Json& json, const std::string& place);
  void read_merges(const Json& json, const std::string& place);
  void find_whole_entries();
  TokenId find_byte_level(std::string_view bytes) const;  // one that BPE can produce, or -1
  int64_t merge_short(std::string_view piece, std::vector<TokenId>& out) const;
  int64_t merge_long(std::string_view piece, std::vector<TokenId>& out) const;

  TokenBytes& bytes_;
  ByteStringMap by_bytes_;
  MergeTable merges_;
  std::array<TokenId, 256> byte_ids_;  // -1: this byte has no entry
  std::vector<bool> is_byte_level_;    // by id: BPE can produce it
  bool ignore_merges_ = false;         // a piece that is an entry is not merged
};

}  // namespace dsr
