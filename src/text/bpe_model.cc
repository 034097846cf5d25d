#include "text/bpe_model.h"

#include <algorithm>

#include "base/error.h"
#include "text/byte_alphabet.h"
#include "text/merge_queue.h"

namespace dsr {
namespace {

constexpr size_t kMaxVocabulary = size_t{1} << 20;
constexpr size_t kMaxMerges = size_t{1} << 20;
constexpr size_t kShortPiece = 48;  // bytes; up to here a plain search beats a heap

// The two tokens of a merge, written "a b" or ["a", "b"].
std::pair<std::string_view, std::string_view> merge_pair(const Json& json, const std::string& place,
                                                         size_t index) {
  if (json.is_string()) {
    const std::string_view text = json.as_string();
    const size_t space = text.find(' ');
    if (space != text.npos && text.find(' ', space + 1) == text.npos)
      return {text.substr(0, space), text.substr(space + 1)};
  } else if (json.is_array() && json.as_array().size() == 2 && json.as_array()[0].is_string() &&
             json.as_array()[1].is_string()) {
    return {json.as_array()[0].as_string(), json.as_array()[1].as_string()};
  }
  fail_model(place, ".merges[", index, "]: expected \"a b\" or [\"a\", \"b\"]");
}

void expect_empty_string(JsonReader& reader, std::string_view key) {
  if (!reader.get_string(key, "").empty())
    fail_model(reader.place(), ".", key, " is not supported (byte-level BPE has none)");
}

size_t size_of(const Json* json) {
  if (json == nullptr) return 0;
  if (json->is_object()) return json->as_object().members.size();
  return json->is_array() ? json->as_array().size() : 0;
}

}  // namespace

BpeModel::BpeModel(const Json& json, const std::string& place, TokenBytes& bytes)
    : bytes_(bytes),
      by_bytes_(bytes, std::min(size_of(json.find("vocab")), kMaxVocabulary)),
      merges_(std::min(size_of(json.find("merges")), kMaxMerges)) {
  byte_ids_.fill(-1);
  JsonReader reader(json, place);
  const std::string type = reader.require_string("type");
  if (type != "BPE")
    fail_model(place, ".type ", quoted(type), " is not supported (supported: BPE)");
  if (reader.optional("dropout") != nullptr) fail_model(place, ".dropout is not supported");
  if (reader.get_bool("byte_fallback", false))
    fail_model(place, ".byte_fallback is not supported (byte-level BPE has none)");
  expect_empty_string(reader, "continuing_subword_prefix");
  expect_empty_string(reader, "end_of_word_suffix");
  ignore_merges_ = reader.get_bool("ignore_merges", false);
  read_vocabulary(reader.require("vocab"), place);
  read_merges(reader.require("merges"), place);
  find_whole_entries();
}

void BpeModel::read_vocabulary(const Json& json, const std::string& place) {
  if (!json.is_object()) fail_model(place, ".vocab is ", json.type_name(), ", expected an object");
  const auto& members = json.as_object().members;
  if (members.size() > kMaxVocabulary)
    fail_model(place, ".vocab has ", with_commas(static_cast<int64_t>(members.size())),
               " entries, at most ", with_commas(kMaxVocabulary), " are accepted");
  std::vector<TokenId> others;  // not written in the byte alphabet, so BPE cannot produce them
  std::string decoded;
  for (const auto& [written, value] : members) {
    if (!value.is_int() || value.as_int() < 0 || value.as_int() > kMaxTokenId)
      fail_model(place, ".vocab: the id of ", quoted(written), " must be an integer from 0 to ",
                 with_commas(kMaxTokenId));
    const auto id = static_cast<TokenId>(value.as_int());
    if (bytes_.has(id))
      fail_model(place, ".vocab: ", quoted(written), " has the id ", id, " of another entry");
    if (written.empty()) fail_model(place, ".vocab: the entry with id ", id, " is empty");
    decoded.clear();
    const bool is_byte_level = append_bytes_of_written(decoded, written);
    bytes_.add(id, is_byte_level ? decoded : written);
    if (is_byte_level) {
      by_bytes_.insert(id);
      is_byte_level_.resize(static_cast<size_t>(bytes_.limit()));
      is_byte_level_[static_cast<size_t>(id)] = true;
      if (decoded.size() == 1) byte_ids_[static_cast<unsigned char>(decoded[0])] = id;
    } else {
      others.push_back(id);
    }
  }
  is_byte_level_.resize(static_cast<size_t>(bytes_.limit()));
  for (const TokenId id : others) by_bytes_.insert(id);
}

void BpeModel::read_merges(const Json& json, const std::string& place) {
  if (!json.is_array()) fail_model(place, ".merges is ", json.type_name(), ", expected an array");
  const Json::Array& list = json.as_array();
  if (list.size() > kMaxMerges)
    fail_model(place, ".merges has ", with_commas(static_cast<int64_t>(list.size())),
               " entries, at most ", with_commas(kMaxMerges), " are accepted");
  std::string bytes;  // of the merged token
  for (size_t i = 0; i < list.size(); ++i) {
    const auto [left, right] = merge_pair(list[i], place, i);
    const auto fail_unknown = [&, l = left, r = right](bool is_left, bool is_right) {
      fail_model(place, ".merges[", i, "]: ", quoted(str(is_left ? l : "", is_right ? r : "")),
                 " is not in the vocabulary");
    };
    bytes.clear();
    if (!append_bytes_of_written(bytes, left)) fail_unknown(true, false);
    const size_t left_size = bytes.size();
    if (!append_bytes_of_written(bytes, right)) fail_unknown(false, true);
    const std::string_view merged = bytes;
    const TokenId left_id = find_byte_level(merged.substr(0, left_size));
    const TokenId right_id = find_byte_level(merged.substr(left_size));
    const TokenId merged_id = find_byte_level(merged);
    if (left_id < 0) fail_unknown(true, false);
    if (right_id < 0) fail_unknown(false, true);
    if (merged_id < 0) fail_unknown(true, true);
    merges_.insert(left_id, right_id, {static_cast<uint32_t>(i), merged_id});
  }
}

TokenId BpeModel::find_byte_level(std::string_view bytes) const {
  const TokenId id = find(bytes);
  return id >= 0 && is_byte_level_[static_cast<size_t>(id)] ? id : -1;
}

// Marks the entries that merging their own bytes gives back. A piece that is such an entry needs no
// merging; most words are.
void BpeModel::find_whole_entries() {
  std::vector<TokenId> ids;
  for (TokenId id = 0; id < bytes_.limit(); ++id) {
    if (!is_byte_level_[static_cast<size_t>(id)]) continue;
    const std::string_view bytes = bytes_.of(id);
    bool whole = ignore_merges_;
    if (!whole && bytes.size() <= kShortPiece) {
      ids.clear();
      whole = merge_short(bytes, ids) < 0 && ids.size() == 1 && ids[0] == id;
    }
    if (whole) by_bytes_.set_whole(id);
  }
}

int64_t BpeModel::encode(std::string_view piece, std::vector<TokenId>& out) const {
  if (piece.empty()) return -1;
  if (const ByteStringMap::Found found = by_bytes_.find(piece); found.is_whole) {
    out.push_back(found.id);
    return -1;
  }
  return piece.size() <= kShortPiece ? merge_short(piece, out) : merge_long(piece, out);
}

int64_t BpeModel::merge_short(std::string_view piece, std::vector<TokenId>& out) const {
  TokenId ids[kShortPiece];
  MergeTable::Merge merges[kShortPiece];  // merges[i]: of ids[i] and ids[i + 1]
  size_t n = piece.size();
  for (size_t i = 0; i < n; ++i) {
    ids[i] = byte_ids_[static_cast<unsigned char>(piece[i])];
    if (ids[i] < 0) return static_cast<int64_t>(i);
  }
  for (size_t i = 0; i + 1 < n; ++i) merges[i] = merges_.find(ids[i], ids[i + 1]);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i) {
      if (merges[i].rank < merges[best].rank) best = i;
    }
    if (merges[best].rank == MergeTable::kNever) break;
    ids[best] = merges[best].merged;
    --n;
    for (size_t i = best + 1; i < n; ++i) {
      ids[i] = ids[i + 1];
      merges[i - 1] = merges[i];
    }
    if (best + 1 < n) merges[best] = merges_.find(ids[best], ids[best + 1]);
    if (best > 0) merges[best - 1] = merges_.find(ids[best - 1], ids[best]);
  }
  out.insert(out.end(), ids, ids + n);
  return -1;
}

// A queue of the possible merges, by rank and then position; stale ones are recognised when they
// come up, because the pair at their position no longer has their rank.
int64_t BpeModel::merge_long(std::string_view piece, std::vector<TokenId>& out) const {
  const size_t n = piece.size();
  DSR_CHECK(n < 0xFFFFFFFF, n);
  struct Node {
    TokenId id;               // -1: merged into the one before
    uint32_t previous, next;  // of the tokens that are left; n: none
  };
  std::vector<Node> nodes(n);
  for (size_t i = 0; i < n; ++i) {
    const TokenId id = byte_ids_[static_cast<unsigned char>(piece[i])];
    if (id < 0) return static_cast<int64_t>(i);
    nodes[i] = {id, static_cast<uint32_t>(i == 0 ? n : i - 1), static_cast<uint32_t>(i + 1)};
  }
  const auto pack = [](uint32_t rank, size_t at) { return uint64_t{rank} << 32 | at; };
  std::vector<uint64_t> candidates;
  for (size_t i = 0; i + 1 < n; ++i) {
    const uint32_t rank = merges_.find(nodes[i].id, nodes[i + 1].id).rank;
    if (rank != MergeTable::kNever) candidates.push_back(pack(rank, i));
  }
  MergeQueue queue(std::move(candidates));
  const auto offer = [&](size_t at) {
    const uint32_t rank = merges_.find(nodes[at].id, nodes[nodes[at].next].id).rank;
    if (rank != MergeTable::kNever) queue.push(pack(rank, at));
  };
  for (uint64_t key; queue.pop(key);) {
    const size_t at = key & 0xFFFFFFFF;
    Node& left = nodes[at];
    if (left.id < 0 || left.next == n) continue;
    Node& right = nodes[left.next];
    const MergeTable::Merge m = merges_.find(left.id, right.id);
    if (m.rank != key >> 32) continue;
    left.id = m.merged;
    left.next = right.next;
    right.id = -1;
    if (left.next < n) {
      nodes[left.next].previous = static_cast<uint32_t>(at);
      offer(at);
    }
    if (left.previous < n) offer(left.previous);
  }
  for (size_t i = 0; i < n; i = nodes[i].next) out.push_back(nodes[i].id);
  return -1;
}

}  // namespace dsr
