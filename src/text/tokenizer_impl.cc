#include "text/tokenizer_impl.h"

#include "base/error.h"

namespace dsr {
namespace {

// The string member `key` of what may be an object.
const std::string* string_in(const Json& json, std::string_view key) {
  const Json* member = json.is_object() ? json.find(key) : nullptr;
  return member != nullptr && member->is_string() ? &member->as_string() : nullptr;
}

}  // namespace

// bos_token and eos_token are strings or objects with "content".
std::optional<TokenId> Tokenizer::Impl::special_id(const Json& config, std::string_view key,
                                                   const std::string& path) const {
  const Json* value = config.find(key);
  if (value != nullptr && value->is_object()) value = value->find("content");
  if (value == nullptr || value->is_null()) return std::nullopt;
  if (!value->is_string()) fail_model(path, ": ", key, " is ", value->type_name());
  const std::optional<TokenId> id = find(value->as_string());
  if (!id) fail_model(path, ": ", key, " ", quoted(value->as_string()), " is not in the tokenizer");
  return id;
}

void Tokenizer::Impl::read_config(const Json& config, const std::string& path) {
  if (!config.is_object()) fail_model(path, ": not a JSON object");
  JsonReader reader(config, path);
  if (const auto id = special_id(config, "bos_token", path)) bos_id = id;
  if (const auto id = special_id(config, "eos_token", path)) eos_id = id;
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
