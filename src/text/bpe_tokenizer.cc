// Byte-level BPE as a tokenizer.json describes it. A text is cut at added tokens, what lies between
// is normalised and pre-tokenized, and every piece becomes bytes that BPE merges.
#include <algorithm>

#include "base/error.h"
#include "text/bpe_model.h"
#include "text/nfc.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer_impl.h"

namespace dsr {
namespace {

const Json& require_object(const Json& json, std::string_view key, const std::string& path) {
  if (!json.is_object()) fail_model(path, ": not a JSON object");
  const Json* member = json.find(key);
  if (member == nullptr || member->is_null()) fail_model(path, ": ", key, " is missing");
  if (!member->is_object())
    fail_model(path, ": ", key, " is ", member->type_name(), ", expected an object");
  return *member;
}

// The string member `key` of what may be an object.
const std::string* string_in(const Json& json, std::string_view key) {
  const Json* member = json.is_object() ? json.find(key) : nullptr;
  return member != nullptr && member->is_string() ? &member->as_string() : nullptr;
}

std::vector<AddedToken> added_tokens_of(const Json& json, const std::string& path) {
  const Json* list = json.find("added_tokens");
  if (list == nullptr || list->is_null()) return {};
  return read_added_tokens(*list, path + ": added_tokens");
}

// The tokens of one pass, as they appear in a text that was normalised.
std::vector<AddedToken> select(const std::vector<AddedToken>& tokens, bool normalized, bool nfc) {
  std::vector<AddedToken> out;
  for (const AddedToken& t : tokens) {
    if (t.normalized != normalized) continue;
    out.push_back(t);
    if (nfc && normalized) out.back().content = to_nfc(t.content, {}).text;
  }
  return out;
}

// The parts of `literal` that lie in [begin, end), counted from `begin`.
std::vector<ByteRange> ranges_in(std::span<const ByteRange> literal, size_t begin, size_t end) {
  const auto first = static_cast<int64_t>(begin), last = static_cast<int64_t>(end);
  std::vector<ByteRange> out;
  for (const ByteRange& r : literal) {
    const ByteRange part = {std::max(r.begin, first) - first, std::min(r.end, last) - first};
    if (part.begin < part.end) out.push_back(part);
  }
  return out;
}

// `member`, if there, must have one of the `types`. A Sequence without members does nothing.
void expect_type(const Json& json, std::string_view key, const std::string& path,
                 std::initializer_list<std::string_view> types) {
  const Json* member = json.find(key);
  if (member == nullptr || member->is_null()) return;
  const std::string* name = string_in(*member, "type");
  if (name == nullptr) fail_model(path, ": ", key, ".type is missing");
  const Json* sequence = member->find(str(key, "s"));
  if (*name == "Sequence" && sequence != nullptr && sequence->is_array() &&
      sequence->as_array().empty())
    return;
  std::string known;
  for (const std::string_view t : types) {
    if (*name == t) return;
    known += str(known.empty() ? "" : ", ", t);
  }
  fail_model(path, ": ", key, ".type ", quoted(*name),
             " is not supported (supported: ", known.empty() ? "none" : known, ")");
}

// Whether texts are normalised; the only form we know is NFC.
bool has_nfc(const Json& json, const std::string& path) {
  expect_type(json, "normalizer", path, {"NFC"});
  const Json* normalizer = json.find("normalizer");
  if (normalizer == nullptr || normalizer->is_null()) return false;
  const std::string* type = string_in(*normalizer, "type");
  if (type == nullptr || *type != "NFC") return false;
  require_nfc(path + ": normalizer");
  return true;
}

class BpeTokenizer : public Tokenizer::Impl {
 public:
  BpeTokenizer(const Json& json, const std::string& path, const WarningSink& warn);

  void encode(std::string_view text, std::span<const ByteRange> literal,
              std::vector<TokenId>& out) const override;
  std::optional<TokenId> find(std::string_view bytes) const override;

 private:
  void add_tokens(const std::vector<AddedToken>& tokens, const Json& vocabulary,
                  const std::string& place);
  void encode_normalized(std::string_view text, ByteRange part, std::span<const ByteRange> literal,
                         std::vector<TokenId>& out) const;
  void encode_plain(std::string_view text, size_t begin, size_t end,
                    std::vector<TokenId>& out) const;

  BpeModel model_;
  PreTokenizer pre_tokenizer_;
  bool nfc_;  // the normaliser
  std::vector<AddedToken> added_;
  AddedTokenMatcher raw_matcher_, normalized_matcher_;  // the two passes, see AddedToken
};

BpeTokenizer::BpeTokenizer(const Json& json, const std::string& path, const WarningSink& warn)
    : model_(require_object(json, "model", path), path + ": model", bytes_),
      pre_tokenizer_(require_object(json, "pre_tokenizer", path), path + ": pre_tokenizer", warn),
      nfc_(has_nfc(json, path)),
      added_(added_tokens_of(json, path)),
      raw_matcher_(select(added_, /*normalized=*/false, nfc_)),
      normalized_matcher_(select(added_, /*normalized=*/true, nfc_)) {
  expect_type(json, "decoder", path, {"ByteLevel"});
  // The post-processor would add BOS; tokenizer_config.json decides that (models.md 12.1).
  expect_type(json, "post_processor", path, {"ByteLevel", "TemplateProcessing", "Sequence"});
  add_tokens(added_, *json.find("model")->find("vocab"), path + ": added_tokens");
}

void BpeTokenizer::add_tokens(const std::vector<AddedToken>& tokens, const Json& vocabulary,
                              const std::string& place) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    const AddedToken& t = tokens[i];
    const Json* entry = vocabulary.find(t.content);
    if (entry != nullptr && entry->as_int() != t.id)
      fail_model(place, "[", i, "].id is ", t.id, ", but model.vocab gives ", quoted(t.content),
                 " the id ", entry->as_int());
    if (entry == nullptr && bytes_.has(t.id))
      fail_model(place, "[", i, "].id ", t.id, " of ", quoted(t.content),
                 " is the id of another entry of model.vocab");
    bytes_.replace(t.id, t.content);
    mark_special(t.id, t.special);
  }
}

void BpeTokenizer::encode(std::string_view text, std::span<const ByteRange> literal,
                          std::vector<TokenId>& out) const {
  cut(raw_matcher_, text, {0, std::ssize(text)}, literal, out, [&](size_t begin, size_t end) {
    if (!nfc_) {
      encode_normalized(text, {static_cast<int64_t>(begin), static_cast<int64_t>(end)}, literal,
                        out);
    } else if (begin < end) {
      const NormalizedText normal =
          to_nfc(text.substr(begin, end - begin), ranges_in(literal, begin, end));
      encode_normalized(normal.text, {0, std::ssize(normal.text)}, normal.literal, out);
    }
  });
}

void BpeTokenizer::encode_normalized(std::string_view text, ByteRange part,
                                     std::span<const ByteRange> literal,
                                     std::vector<TokenId>& out) const {
  cut(normalized_matcher_, text, part, literal, out,
      [&](size_t begin, size_t end) { encode_plain(text, begin, end, out); });
}

void BpeTokenizer::encode_plain(std::string_view text, size_t begin, size_t end,
                                std::vector<TokenId>& out) const {
  if (begin == end) return;
  pre_tokenizer_.split(text.substr(begin, end - begin), [&](std::string_view piece) {
    const int64_t missing = model_.encode(piece, out);
    if (missing < 0) return;
    const auto byte = static_cast<unsigned char>(piece[static_cast<size_t>(missing)]);
    fail_usage("text: no token for the byte ", static_cast<int>(byte), " at offset ",
               piece.data() - text.data() + missing, "; this tokenizer cannot encode it");
  });
}

std::optional<TokenId> BpeTokenizer::find(std::string_view bytes) const {
  if (bytes.empty()) return std::nullopt;
  if (const auto id = raw_matcher_.find(bytes)) return id;
  if (const auto id = normalized_matcher_.find(bytes)) return id;
  const TokenId id = model_.find(bytes);
  return id < 0 ? std::nullopt : std::optional(id);
}

}  // namespace

std::unique_ptr<Tokenizer::Impl> make_bpe_tokenizer(const Json& json, const std::string& path,
                                                    const WarningSink& warn) {
  return std::make_unique<BpeTokenizer>(json, path, warn);
}

}  // namespace dsr
