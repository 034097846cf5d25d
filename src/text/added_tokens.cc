#include "text/added_tokens.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "base/error.h"
#include "base/utf8.h"
#include "text/token_table.h"

namespace dsr {
namespace {

constexpr size_t kMaxAddedTokens = size_t{1} << 16;
constexpr size_t kMaxContentBytes = 256;  // bounds the work per byte of text

AddedToken read_one(const Json& json, const std::string& place) {
  if (!json.is_object()) fail_model(place, " is ", json.type_name(), ", expected an object");
  JsonReader reader(json, place);
  AddedToken token;
  token.id = static_cast<TokenId>(reader.require_int("id", 0, kMaxTokenId));
  token.content = reader.require_string("content");
  token.special = reader.get_bool("special", false);
  token.normalized = reader.get_bool("normalized", !token.special);
  if (token.content.empty()) fail_model(place, ".content is empty");
  if (token.content.size() > kMaxContentBytes)
    fail_model(place, ".content has ", token.content.size(), " bytes, at most ", kMaxContentBytes,
               " are accepted");
  for (const char* flag : {"single_word", "lstrip", "rstrip"}) {
    if (reader.get_bool(flag, false))
      fail_model(place, ".", flag, " is true for ", quoted(token.content), ": not supported");
  }
  return token;
}

}  // namespace

std::vector<AddedToken> read_added_tokens(const Json& json, const std::string& place) {
  if (!json.is_array()) fail_model(place, " is ", json.type_name(), ", expected an array");
  const Json::Array& list = json.as_array();
  if (list.size() > kMaxAddedTokens)
    fail_model(place, " has ", with_commas(static_cast<int64_t>(list.size())), " entries, at most ",
               with_commas(kMaxAddedTokens), " are accepted");
  std::vector<AddedToken> tokens;
  std::unordered_map<TokenId, size_t> by_id;
  std::unordered_map<std::string, size_t> by_content;
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string here = str(place, "[", i, "]");
    AddedToken token = read_one(list[i], here);
    if (const auto [other, is_new] = by_id.emplace(token.id, i); !is_new)
      fail_model(here, ".id ", token.id, " is also the id of entry ", other->second);
    if (const auto [other, is_new] = by_content.emplace(token.content, i); !is_new)
      fail_model(here, ".content ", quoted(token.content), " is also that of entry ",
                 other->second);
    tokens.push_back(std::move(token));
  }
  return tokens;
}

AddedTokenMatcher::AddedTokenMatcher(const std::vector<AddedToken>& tokens) {
  for (const AddedToken& t : tokens) {
    const bool is_one_character = decode_utf8(t.content).bytes == std::ssize(t.content);
    entries_.push_back({t.content, t.id, is_one_character});
  }
  std::sort(entries_.begin(), entries_.end(),
            [](const Entry& a, const Entry& b) { return a.content < b.content; });
  size_t i = 0;
  for (size_t byte = 0; byte < 256; ++byte) {
    by_first_byte_[byte] = static_cast<uint32_t>(i);
    while (i < entries_.size() && static_cast<unsigned char>(entries_[i].content[0]) == byte) ++i;
  }
  by_first_byte_[256] = static_cast<uint32_t>(i);
}

std::optional<AddedTokenMatcher::Match> AddedTokenMatcher::next(
    std::string_view text, size_t from, size_t to, std::span<const ByteRange> literal) const {
  if (entries_.empty()) return std::nullopt;
  const auto ends_after = [](size_t at, const ByteRange& r) {
    return at < static_cast<size_t>(r.end);
  };
  auto range = std::upper_bound(literal.begin(), literal.end(), from, ends_after);
  for (size_t at = from; at < to; ++at) {
    const auto byte = static_cast<unsigned char>(text[at]);
    if (by_first_byte_[byte] == by_first_byte_[byte + 1]) continue;
    while (range != literal.end() && !ends_after(at, *range)) ++range;
    size_t end = to;
    bool is_literal = false;
    if (range != literal.end()) {
      is_literal = static_cast<size_t>(range->begin) <= at;
      if (!is_literal) end = std::min(end, static_cast<size_t>(range->begin));
    }
    const Entry* found = longest_prefix(text.substr(at, end - at), is_literal);
    if (found != nullptr) return Match{at, at + found->content.size(), found->id};
  }
  return std::nullopt;
}

const AddedTokenMatcher::Entry* AddedTokenMatcher::longest_prefix(std::string_view text,
                                                                  bool only_characters) const {
  const auto first = static_cast<unsigned char>(text[0]);
  size_t begin = by_first_byte_[first], end = by_first_byte_[first + 1u];
  const Entry* longest = nullptr;
  for (size_t length = 1; begin < end; ++length) {
    // All of [begin, end) share the first `length` bytes of `text`; the shortest comes first.
    const Entry& e = entries_[begin];
    if (e.content.size() == length) {
      if (!only_characters || e.is_one_character) longest = &e;
      ++begin;
    }
    if (length == text.size()) break;
    const char c = text[length];
    const auto by_next_byte = [length](const Entry& entry) { return entry.content[length]; };
    const auto less = [](char a, char b) {
      return static_cast<unsigned char>(a) < static_cast<unsigned char>(b);
    };
    const auto list = entries_.begin();
    const auto lower =
        std::partition_point(list + static_cast<int64_t>(begin), list + static_cast<int64_t>(end),
                             [&](const Entry& entry) { return less(by_next_byte(entry), c); });
    const auto upper =
        std::partition_point(lower, list + static_cast<int64_t>(end),
                             [&](const Entry& x) { return !less(c, by_next_byte(x)); });
    begin = static_cast<size_t>(lower - list);
    end = static_cast<size_t>(upper - list);
  }
  return longest;
}

std::optional<TokenId> AddedTokenMatcher::find(std::string_view text) const {
  const auto at =
      std::lower_bound(entries_.begin(), entries_.end(), text,
                       [](const Entry& e, std::string_view t) { return e.content < t; });
  if (at == entries_.end() || at->content != text) return std::nullopt;
  return at->id;
}

}  // namespace dsr
