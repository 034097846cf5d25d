#include "deepseek_run/tokenize.h"

#include <limits>

#include "base/error.h"
#include "base/json.h"

namespace dsr {
namespace {

Json json_of(const std::vector<TokenId>& ids) {
  Json out = Json::array();
  for (const TokenId id : ids) out.push_back(int64_t{id});
  return out;
}

std::vector<TokenId> ids_from(const Json& list) {
  std::vector<TokenId> ids;
  for (const Json& id : list.as_array()) {
    if (!id.is_int() || id.as_int() < 0 || id.as_int() > std::numeric_limits<TokenId>::max())
      fail_usage("ids[", ids.size(), "]: expected an integer from 0 to 2147483647");
    ids.push_back(static_cast<TokenId>(id.as_int()));
  }
  return ids;
}

// The text of `ids`; what is not UTF-8 in it becomes U+FFFD.
std::string text_of(const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
  StreamDecoder decoder(tokenizer);
  std::string text;
  for (const TokenId id : ids) text += decoder.push(id);
  return text += decoder.finish();
}

}  // namespace

std::vector<TokenId> tokenize(const Tokenizer& tokenizer, std::string_view text, bool add_bos) {
  std::vector<TokenId> ids = tokenizer.encode(text);
  if (!add_bos) return ids;
  const std::optional<TokenId> bos = tokenizer.bos_id();
  if (!bos) fail_usage("the tokenizer has no bos_token (tokenizer_config.json)");
  if (ids.empty() || ids.front() != *bos) ids.insert(ids.begin(), *bos);
  return ids;
}

std::string tokens_text(const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
  std::string out;
  for (const TokenId id : ids) out += str(id, "\t", quoted(tokenizer.token_bytes(id)), "\n");
  return out;
}

std::string tokens_json(const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
  Json pieces = Json::array();
  for (const TokenId id : ids) pieces.push_back(tokenizer.token_bytes(id));
  Json out = Json::object();
  out.set("count", std::ssize(ids));
  out.set("ids", json_of(ids));
  out.set("pieces", std::move(pieces));
  return out.dump();
}

std::string prompt_json(std::string_view text, const std::vector<TokenId>& ids) {
  Json out = Json::object();
  out.set("text", text);
  out.set("ids", json_of(ids));
  return out.dump();
}

TokenizedLine tokenize_json_line(const Tokenizer& tokenizer, std::string_view line, bool add_bos) {
  Json out = Json::object();
  try {
    const Json json = parse_json(line, "line");
    const Json* text = json.is_object() ? json.find("text") : nullptr;
    const Json* ids = json.is_object() ? json.find("ids") : nullptr;
    if (text == nullptr && ids != nullptr && ids->is_array()) {
      out.set("text", text_of(tokenizer, ids_from(*ids)));
      return {out.dump(), true};
    }
    if (text == nullptr || !text->is_string())
      fail_usage("expected an object with a string \"text\" (or an array \"ids\")");
    out.set("ids", json_of(tokenize(tokenizer, text->as_string(), add_bos)));
    return {out.dump(), true};
  } catch (const Error& e) {
    out.set("error", e.what());
    return {out.dump(), false};
  }
}

}  // namespace dsr
