#include "deepseek_run/tokenize.h"

#include "base/error.h"
#include "base/json.h"

namespace dsr {
namespace {

Json json_of(const std::vector<TokenId>& ids) {
  Json out = Json::array();
  for (const TokenId id : ids) out.push_back(int64_t{id});
  return out;
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
    if (text == nullptr || !text->is_string())
      fail_usage("expected an object with a string \"text\"");
    out.set("ids", json_of(tokenize(tokenizer, text->as_string(), add_bos)));
    return {out.dump(), true};
  } catch (const Error& e) {
    out.set("error", e.what());
    return {out.dump(), false};
  }
}

}  // namespace dsr
