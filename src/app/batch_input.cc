#include "app/batch_input.h"

#include <algorithm>
#include <array>
#include <cstdlib>

#include "base/error.h"
#include "base/sha256.h"
#include "base/utf8.h"
#include "sampling/stop_matcher.h"

namespace dsr {
namespace {

constexpr size_t kMaxPieceBytes = size_t{64} << 20;
constexpr int64_t kMaxAnswers = 128;
constexpr int64_t kMaxInt = int64_t{1} << 31;

bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\r") == text.npos; }

// A rendered or raw prompt begins with BOS where the model wants one.
void add_bos(const Tokenizer& tokenizer, std::vector<TokenId>& ids) {
  const std::optional<TokenId> bos = tokenizer.bos_id();
  if (!tokenizer.add_bos() || !bos || (!ids.empty() && ids.front() == *bos)) return;
  ids.insert(ids.begin(), *bos);
}

// Text, or the parts of one, as the OpenAI API takes them.
std::string content_of(const Json& content, const std::string& place) {
  if (content.is_string()) return content.as_string();
  if (!content.is_array())
    fail_usage(place, ".content is ", content.type_name(), ", expected a string");
  std::string out;
  for (const Json& part : content.as_array()) {
    if (!part.is_object() || !part.find("type") || !part.find("text"))
      fail_usage(place, ".content has a part that is not {\"type\": \"text\", \"text\"}");
    JsonReader reader(part, place + ".content");
    if (reader.require_string("type") != "text")
      fail_usage(place, ".content has a part that is not text");
    out += reader.require_string("text");
  }
  return out;
}

std::vector<ChatMessage> messages_of(const Json& list) {
  if (!list.is_array()) fail_usage("messages is ", list.type_name(), ", expected an array");
  constexpr std::array kRoles = {
      std::pair{"system", Role::kSystem}, std::pair{"developer", Role::kSystem},
      std::pair{"user", Role::kUser}, std::pair{"assistant", Role::kAssistant}};
  std::vector<ChatMessage> out;
  for (const Json& m : list.as_array()) {
    const std::string place = str("messages[", out.size(), "]");
    if (!m.is_object()) fail_usage(place, " is ", m.type_name(), ", expected an object");
    JsonReader reader(m, place);
    const std::string role = reader.require_string("role");
    const auto known =
        std::find_if(kRoles.begin(), kRoles.end(), [&](const auto& r) { return role == r.first; });
    if (known == kRoles.end())
      fail_usage(place, ".role is ", quoted(role), ", expected system, user or assistant");
    out.push_back({known->second, content_of(reader.require("content"), place)});
  }
  return out;
}

std::vector<TokenId> ids_of(const Json& list) {
  std::vector<TokenId> out;
  for (const Json& id : list.as_array()) {
    if (!id.is_int() || id.as_int() < 0 || id.as_int() >= kMaxInt)
      fail_usage("prompt holds something that is not a token id");
    out.push_back(static_cast<TokenId>(id.as_int()));
  }
  return out;
}

std::vector<std::string> stop_of(const Json* stop, const std::vector<std::string>& fallback) {
  if (stop == nullptr) return fallback;
  if (stop->is_string()) return {stop->as_string()};
  if (!stop->is_array()) fail_usage("stop is ", stop->type_name(), ", expected strings");
  std::vector<std::string> out;
  for (const Json& s : stop->as_array()) {
    if (!s.is_string()) fail_usage("stop holds ", s.type_name(), ", expected strings");
    out.push_back(s.as_string());
  }
  return out;
}

// {"15043": 1.5}
std::vector<std::pair<TokenId, double>> biases_of(const Json& map) {
  if (!map.is_object()) fail_usage("logit_bias is ", map.type_name(), ", expected an object");
  std::vector<std::pair<TokenId, double>> out;
  for (const auto& [key, bias] : map.as_object().members) {
    char* end = nullptr;
    const long id = std::strtol(key.c_str(), &end, 10);
    if (key.empty() || *end != '\0' || id < 0 || id >= kMaxInt || !bias.is_number())
      fail_usage("logit_bias of ", quoted(key), ", expected a token id and a number");
    out.emplace_back(static_cast<TokenId>(id), bias.as_double());
  }
  return out;
}

Thinking thinking_of(JsonReader& body, Thinking fallback) {
  if (const Json* think = body.optional("think"); think != nullptr && think->is_bool())
    return think->as_bool() ? Thinking::kOn : Thinking::kOff;
  const Json* kwargs = body.optional("chat_template_kwargs");
  if (kwargs == nullptr || !kwargs->is_object()) return fallback;
  for (const char* key : {"thinking", "enable_thinking"})
    if (const Json* on = kwargs->find(key); on != nullptr && on->is_bool())
      return on->as_bool() ? Thinking::kOn : Thinking::kOff;
  return fallback;
}

}  // namespace

uint64_t seed_of(uint64_t batch_seed, std::string_view custom_id) {
  Sha256 hash;
  hash.update(str("deepseek-run seed ", batch_seed, "\n"));
  hash.update(custom_id);
  return std::strtoull(hash.finish().substr(0, 16).c_str(), nullptr, 16) >> 11;
}

std::vector<BatchPiece> split_batch(std::string_view file, BatchSplit split) {
  constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
  if (file.starts_with(kByteOrderMark)) file.remove_prefix(kByteOrderMark.size());
  std::vector<BatchPiece> out;
  bool continues = false;  // the line belongs to the piece before
  for (int64_t line = 1; !file.empty(); ++line) {
    const size_t end = std::min(file.find('\n'), file.size());
    std::string_view text = file.substr(0, end);
    file.remove_prefix(std::min(end + 1, file.size()));
    if (text.ends_with('\r')) text.remove_suffix(1);
    if (is_blank(text)) {
      continues = false;
    } else if (continues) {
      std::string_view& whole = out.back().text;
      whole = {whole.data(), static_cast<size_t>(text.data() + text.size() - whole.data())};
    } else {
      out.push_back({text, line});
      continues = split == BatchSplit::kBlank;
    }
  }
  return out;
}

std::optional<std::string> BatchParser::custom_id(const BatchPiece& piece) const {
  const std::string number = std::to_string(piece.line);
  if (split_ != BatchSplit::kJsonl) return number;
  if (piece.text.size() > kMaxPieceBytes) return std::nullopt;
  try {
    const Json line = parse_json(piece.text, "line " + number);
    if (!line.is_object()) return std::nullopt;
    const Json* id = line.find("custom_id");
    if (id == nullptr && line.find("body") == nullptr) return number;
    if (id != nullptr && id->is_string()) return id->as_string();
  } catch (const Error&) {  // it is no JSON
  }
  return std::nullopt;
}

BatchRecord BatchParser::parse(const BatchPiece& piece) {
  const std::string place = str("line ", piece.line);
  if (piece.text.size() > kMaxPieceBytes) fail_usage(place, " is longer than 64 MiB");
  if (split_ != BatchSplit::kJsonl) {
    if (const int64_t at = find_invalid_utf8(piece.text); at >= 0)
      fail_usage(place, ": not UTF-8 at byte ", at);
    Json body = Json::object();
    body.set("prompt", piece.text);
    BatchRecord out = parse_body(body, "");
    out.custom_id = std::to_string(piece.line);
    out.request.request.sampling.seed = seed_of(context_.seed, out.custom_id);
    return out;
  }
  const Json line = parse_json(piece.text, place);
  if (!line.is_object()) fail_usage(place, " is ", line.type_name(), ", expected an object");
  JsonReader reader(line, place);
  std::string url;
  if (const Json* u = line.find("url"); u != nullptr && u->is_string()) url = u->as_string();
  const Json* body = line.find("body");
  if (body != nullptr && !body->is_object())
    fail_usage(place, ": body is ", body->type_name(), ", expected an object");
  if (body != nullptr && line.find("custom_id") == nullptr)
    fail_usage(place, " has a body and no custom_id");
  if (const Json* id = line.find("custom_id"); id != nullptr && !id->is_string())
    fail_usage(place, ": custom_id is ", id->type_name(), ", expected a string");
  BatchRecord out = parse_body(body != nullptr ? *body : line, url);
  out.custom_id = custom_id(piece).value();
  if (!out.has_seed) out.request.request.sampling.seed = seed_of(context_.seed, out.custom_id);
  return out;
}

BatchRecord BatchParser::parse_body(const Json& body, const std::string& url) {
  const bool completion = url == "/v1/completions";
  if (!url.empty() && !completion && url != "/v1/chat/completions")
    fail_usage("url is ", quoted(url), ", expected /v1/chat/completions or /v1/completions");
  BatchRecord out;
  JsonReader reader(body, "body");
  reader.ignore({"model", "user", "metadata", "stream_options", "custom_id", "method", "url"});
  if (reader.get_bool("stream", false))
    fail_usage("stream is true, and a batch gives whole answers");
  set_sampling(out, reader);
  set_prompt(out, reader, completion);
  warn_of_unread(reader);
  return out;
}

void BatchParser::set_prompt(BatchRecord& out, JsonReader& body, bool completion) {
  const Json* messages = body.optional("messages");
  const Json* prompt = body.optional("prompt");
  if ((messages == nullptr) == (prompt == nullptr))
    fail_usage("expected either messages or a prompt");
  const Thinking thinking = thinking_of(body, context_.thinking);
  std::vector<ChatTool> tools;
  if (const Json* t = body.optional("tools")) tools = parse_chat_tools(t->dump(), "tools");
  if (messages != nullptr) {
    if (completion) fail_usage("messages belong to /v1/chat/completions");
    if (context_.format == nullptr)
      fail_usage("messages need a chat format, and the model has none or --raw was given");
    return render(out, messages_of(*messages), thinking, tools);
  }
  if (prompt->is_array() || completion || context_.format == nullptr) {
    out.chat = false;
    if (!prompt->is_array() && !prompt->is_string())
      fail_usage("prompt is ", prompt->type_name(), ", expected a string or token ids");
    out.request.request.prompt =
        prompt->is_array() ? ids_of(*prompt) : encode_raw(prompt->as_string());
    return;
  }
  if (!prompt->is_string())
    fail_usage("prompt is ", prompt->type_name(), ", expected a string or token ids");
  render(out, {{Role::kUser, prompt->as_string()}}, thinking, tools);
}

std::vector<TokenId> BatchParser::encode_raw(const std::string& text) const {
  if (context_.tokenizer == nullptr) fail_usage("text needs a tokenizer, and the model has none");
  std::vector<TokenId> out = context_.tokenizer->encode(text);
  add_bos(*context_.tokenizer, out);
  return out;
}

void BatchParser::render(BatchRecord& out, const std::vector<ChatMessage>& messages,
                         Thinking thinking, const std::vector<ChatTool>& tools) const {
  std::vector<ChatMessage> all = messages;
  if (!context_.system.empty() && (all.empty() || all.front().role != Role::kSystem))
    all.insert(all.begin(), {Role::kSystem, context_.system});
  const RenderedPrompt rendered = context_.format->render(all, thinking, tools);
  std::vector<TokenId>& ids = out.request.request.prompt;
  ids = context_.tokenizer->encode(rendered.text, rendered.literal);
  if (rendered.add_bos) add_bos(*context_.tokenizer, ids);
  out.request.split_reasoning = true;
  out.request.starts_in_reasoning = rendered.starts_in_reasoning;
}

void BatchParser::set_sampling(BatchRecord& out, JsonReader& body) {
  constexpr double kHuge = 1e30;  // the ranges are check_sampling_params's
  Request& r = out.request.request;
  r.sampling = context_.defaults;
  SamplingParams& p = r.sampling;
  p.temperature = body.get_double("temperature", -kHuge, kHuge, p.temperature);
  p.top_p = body.get_double("top_p", -kHuge, kHuge, p.top_p);
  p.min_p = body.get_double("min_p", -kHuge, kHuge, p.min_p);
  p.top_k = body.get_int("top_k", -kMaxInt, kMaxInt, p.top_k);
  if (p.top_k == -1) p.top_k = 0;  // off, as vLLM writes it
  p.repetition_penalty = body.get_double("repetition_penalty", -kHuge, kHuge, p.repetition_penalty);
  p.presence_penalty = body.get_double("presence_penalty", -kHuge, kHuge, p.presence_penalty);
  p.frequency_penalty = body.get_double("frequency_penalty", -kHuge, kHuge, p.frequency_penalty);
  if (const Json* bias = body.optional("logit_bias")) p.logit_bias = biases_of(*bias);
  const Json* seed = body.optional("seed");
  if (seed != nullptr && (!seed->is_int() || seed->as_int() < 0))
    fail_usage("seed is not a whole number of at least 0");
  out.has_seed = seed != nullptr;
  if (out.has_seed) p.seed = static_cast<uint64_t>(seed->as_int());
  out.n = body.get_int("n", 1, kMaxAnswers, 1);
  r.ignore_eos = body.get_bool("ignore_eos", false);
  // Both names are in use; the newer one counts.
  r.max_new_tokens = body.get_int("max_tokens", 1, kMaxInt, context_.max_new_tokens);
  r.max_new_tokens = body.get_int("max_completion_tokens", 1, kMaxInt, r.max_new_tokens);
  out.request.stop = stop_of(body.optional("stop"), context_.stop);
  StopMatcher{out.request.stop};  // throws for what is no stop string
  p.dry_multiplier = body.get_double("dry_multiplier", -kHuge, kHuge, p.dry_multiplier);
  p.dry_base = body.get_double("dry_base", -kHuge, kHuge, p.dry_base);
  p.dry_allowed_length =
      body.get_int("dry_allowed_length", -kMaxInt, kMaxInt, p.dry_allowed_length);
  p.loop_guard = body.get_bool("loop_guard", p.loop_guard);
  // A number for completions; true and top_logprobs for chats.
  if (const Json* wanted = body.optional("logprobs"); wanted != nullptr && wanted->is_bool())
    p.logprobs = wanted->as_bool() ? body.get_int("top_logprobs", 0, kMaxInt, 0) : -1;
  else
    p.logprobs = body.get_int("logprobs", -1, kMaxInt, p.logprobs);
  check_sampling_params(p, context_.vocab_size);
}

void BatchParser::warn_of_unread(const JsonReader& reader) {
  for (const std::string& key : reader.unread_keys())
    if (note_ && noted_.insert(key).second)
      note_("field " + quoted(key) + " is not understood and ignored");
}

}  // namespace dsr
