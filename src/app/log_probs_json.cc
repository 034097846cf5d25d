#include "app/log_probs_json.h"

#include <charconv>

#include "app/text_stream.h"
#include "base/utf8.h"

namespace dsr {
namespace {

// The double with the fewest digits that is this float: -0.3, not -0.30000001192092896.
double shortest(float value) {
  char text[32];
  const char* end = std::to_chars(text, text + sizeof text, value).ptr;
  double out = 0;
  std::from_chars(text, end, out);
  return out;
}

// "bytes:\xe2\x80" where it is not whole UTF-8; the id where there is no text.
std::string name_of(const Tokenizer* tokenizer, TokenId id) {
  if (tokenizer == nullptr) return std::to_string(id);
  const std::string_view bytes = tokenizer->token_bytes(id);
  if (find_invalid_utf8(bytes) < 0) return std::string(bytes);
  constexpr char kHex[] = "0123456789abcdef";
  std::string out = "bytes:";
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
  }
  return out;
}

// {token, logprob, bytes}; the bytes are null where nobody knows them.
Json chat_token(const Tokenizer* tokenizer, TokenId id, float log_prob) {
  std::string_view text;
  Json bytes;
  if (tokenizer != nullptr) {
    text = tokenizer->token_bytes(id);
    bytes = Json::array();
    for (const char c : text) bytes.push_back(int64_t{static_cast<unsigned char>(c)});
  }
  Json out = Json::object();
  out.set("token", text);  // JSON writes U+FFFD for what is not UTF-8
  out.set("logprob", shortest(log_prob));
  out.set("bytes", std::move(bytes));
  return out;
}

// The likeliest tokens and, as in the OpenAI API, the one that was drawn, by their text. Of two
// with one text the likelier counts.
Json text_top(const Tokenizer* tokenizer, TokenId drawn, const TokenLogProbs& token) {
  Json out = Json::object();
  const auto add = [&](TokenId id, float log_prob) {
    const std::string name = name_of(tokenizer, id);
    if (out.find(name) == nullptr) out.set(name, shortest(log_prob));
  };
  for (const TokenLogProb& t : token.top) add(t.id, t.log_prob);
  add(drawn, token.log_prob);
  return out;
}

int64_t n_characters(std::string_view text) {
  int64_t n = 0;
  for (const char c : text) n += (static_cast<unsigned char>(c) & 0xC0) != 0x80 ? 1 : 0;
  return n;
}

// Where each token begins in the text, in characters; one inside a character begins where that
// does.
Json text_offsets(const Answer& a, const Tokenizer* tokenizer) {
  Json out = Json::array();
  if (tokenizer == nullptr) return out;
  StreamDecoder decoder(*tokenizer);
  int64_t at = 0;
  for (const TokenId id : a.ids) {
    out.push_back(at);
    if (is_text(*tokenizer, id)) at += n_characters(decoder.push(id));
  }
  return out;
}

}  // namespace

Json chat_log_probs(const Answer& a, const Tokenizer* tokenizer) {
  Json content = Json::array();
  for (size_t i = 0; i < a.log_probs.size(); ++i) {
    Json token = chat_token(tokenizer, a.ids.at(i), a.log_probs[i].log_prob);
    Json top = Json::array();
    for (const TokenLogProb& t : a.log_probs[i].top)
      top.push_back(chat_token(tokenizer, t.id, t.log_prob));
    token.set("top_logprobs", std::move(top));
    content.push_back(std::move(token));
  }
  Json out = Json::object();
  out.set("content", std::move(content));
  return out;
}

Json text_log_probs(const Answer& a, const Tokenizer* tokenizer) {
  Json tokens = Json::array(), log_probs = Json::array(), top = Json::array();
  for (size_t i = 0; i < a.log_probs.size(); ++i) {
    tokens.push_back(name_of(tokenizer, a.ids.at(i)));
    log_probs.push_back(shortest(a.log_probs[i].log_prob));
    top.push_back(text_top(tokenizer, a.ids[i], a.log_probs[i]));
  }
  Json out = Json::object();
  out.set("tokens", std::move(tokens));
  out.set("token_logprobs", std::move(log_probs));
  out.set("top_logprobs", std::move(top));
  out.set("text_offset", text_offsets(a, tokenizer));
  return out;
}

}  // namespace dsr
