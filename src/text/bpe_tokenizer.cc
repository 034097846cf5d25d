#include "text/bpe_tokenizer.h"

#include "base/error.h"

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

std::vector<AddedToken> select(const std::vector<AddedToken>& tokens, bool normalized) {
  std::vector<AddedToken> out;
  for (const AddedToken& t : tokens) {
    if (t.normalized == normalized) out.push_back(t);
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

}  // namespace

Tokenizer::Impl::Impl(const Json& json, const std::string& path)
    : model_(require_object(json, "model", path), path + ": model", bytes_),
      pre_tokenizer_(require_object(json, "pre_tokenizer", path), path + ": pre_tokenizer"),
      added_(added_tokens_of(json, path)),
      raw_matcher_(select(added_, /*normalized=*/false)),
      normalized_matcher_(select(added_, /*normalized=*/true)) {
  expect_type(json, "normalizer", path, {});
  expect_type(json, "decoder", path, {"ByteLevel"});
  // The post-processor would add BOS; tokenizer_config.json decides that (models.md 12.1).
  expect_type(json, "post_processor", path, {"ByteLevel", "TemplateProcessing", "Sequence"});
  add_tokens(added_, *json.find("model")->find("vocab"), path + ": added_tokens");
}

void Tokenizer::Impl::add_tokens(const std::vector<AddedToken>& tokens, const Json& vocabulary,
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
    is_special_.resize(static_cast<size_t>(bytes_.limit()));
    is_special_[static_cast<size_t>(t.id)] = t.special;
  }
}

void Tokenizer::Impl::encode(std::string_view text, std::span<const ByteRange> literal,
                             std::vector<TokenId>& out) const {
  const auto encode_normalized = [&](Part part) {
    while (const auto m = normalized_matcher_.next(text, part.begin, part.end, literal)) {
      encode_part(text, {part.begin, m->begin}, out);
      out.push_back(m->id);
      part.begin = m->end;
    }
    encode_part(text, part, out);
  };
  size_t begin = 0;
  while (const auto m = raw_matcher_.next(text, begin, text.size(), literal)) {
    encode_normalized({begin, m->begin});
    out.push_back(m->id);
    begin = m->end;
  }
  encode_normalized({begin, text.size()});
}

void Tokenizer::Impl::encode_part(std::string_view text, Part part,
                                  std::vector<TokenId>& out) const {
  if (part.begin == part.end) return;
  pre_tokenizer_.split(text.substr(part.begin, part.end - part.begin), [&](std::string_view piece) {
    const int64_t missing = model_.encode(piece, out);
    if (missing < 0) return;
    const auto byte = static_cast<unsigned char>(piece[static_cast<size_t>(missing)]);
    fail_usage("text: no token for the byte ", static_cast<int>(byte), " at offset ",
               piece.data() - text.data() + missing, "; this tokenizer cannot encode it");
  });
}

std::optional<TokenId> Tokenizer::Impl::find(std::string_view bytes) const {
  if (bytes.empty()) return std::nullopt;
  if (const auto id = raw_matcher_.find(bytes)) return id;
  if (const auto id = normalized_matcher_.find(bytes)) return id;
  const TokenId id = model_.find(bytes);
  return id < 0 ? std::nullopt : std::optional(id);
}

// bos_token and eos_token are strings or objects with "content".
std::optional<TokenId> Tokenizer::Impl::special_id(const Json& config, std::string_view key,
                                                   const std::string& path) const {
  const Json* value = config.find(key);
  if (value != nullptr && value->is_object()) value = value->find("content");
  if (value == nullptr || value->is_null()) return std::nullopt;
  if (!value->is_string()) fail_model(path, ": ", key, " is ", value->type_name());
  const std::optional<TokenId> id = find(value->as_string());
  if (!id)
    fail_model(path, ": ", key, " ", quoted(value->as_string()), " is not in tokenizer.json");
  return id;
}

void Tokenizer::Impl::read_config(const Json& config, const std::string& path) {
  if (!config.is_object()) fail_model(path, ": not a JSON object");
  JsonReader reader(config, path);
  bos_id = special_id(config, "bos_token", path);
  eos_id = special_id(config, "eos_token", path);
  // The Llama tokenizer classes of transformers add BOS unless told otherwise.
  const bool is_llama = reader.get_string("tokenizer_class", "").starts_with("LlamaTokenizer");
  add_bos = reader.get_bool("add_bos_token", is_llama) && bos_id.has_value();
  if (reader.get_bool("add_eos_token", false))
    fail_model(path, ": add_eos_token true is not supported");
  const Json* chat = reader.optional("chat_template");
  if (chat == nullptr) return;
  if (chat->is_string()) {
    chat_template = chat->as_string();
    return;
  }
  if (!chat->is_array()) fail_model(path, ": chat_template is ", chat->type_name());
  for (const Json& named : chat->as_array()) {  // several templates: the one called "default"
    const std::string* name = string_in(named, "name");
    const std::string* text = string_in(named, "template");
    if (name != nullptr && *name == "default" && text != nullptr) chat_template = *text;
  }
}

}  // namespace dsr
