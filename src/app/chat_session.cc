// Sessions are JSON that people can read:
//
//   {"deepseek_run_session": 1, "model": {"name", "fingerprint"}, "chat_format", "settings": [],
//    "messages": [{"role", "content"}, ..., {"role": "assistant", "content", "finish_reason",
//                 "tags": [offsets of <think> and </think> that are control tokens]}]}
#include "deepseek_run/chat_session.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <limits>

#include "app/output_file.h"
#include "base/error.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "base/sha256.h"
#include "text/control_tokens.h"

namespace dsr {
namespace {

constexpr int64_t kFileVersion = 1;
constexpr int64_t kMaxFileBytes = int64_t{64} << 20;
constexpr const char* kMagic = "deepseek_run_session";
constexpr std::array kFinishes = {FinishReason::kStop, FinishReason::kLength,
                                  FinishReason::kRepetition, FinishReason::kCancelled};

Json message(const char* role, const std::string& content) {
  Json out = Json::object();
  out.set("role", role);
  out.set("content", content);
  return out;
}

Json answer_of(const ChatTurn& turn) {
  Json out = message("assistant", turn.answer);
  out.set("finish_reason", name(turn.finish));
  if (turn.control.empty()) return out;
  Json tags = Json::array();
  for (const ByteRange& tag : turn.control) tags.push_back(tag.begin);
  out.set("tags", std::move(tags));
  return out;
}

void require_known(const JsonReader& reader) {
  const std::vector<std::string> unread = reader.unread_keys();
  if (!unread.empty()) fail_model(reader.place(), ": unknown key ", quoted(unread.front()));
}

const Json::Array& array_of(JsonReader& reader, std::string_view key) {
  const Json& value = reader.require(key);
  if (!value.is_array())
    fail_model(reader.place(), ": ", key, " is ", value.type_name(), ", expected array");
  return value.as_array();
}

const Json& object_of(const Json& value, const std::string& place) {
  if (!value.is_object()) fail_model(place, ": is ", value.type_name(), ", expected object");
  return value;
}

// The tag of reasoning at this place of an answer.
ByteRange tag_at(const std::string& answer, const Json& offset, const std::string& place) {
  const int64_t at = offset.is_int() ? offset.as_int() : -1;
  if (at >= 0 && at < std::ssize(answer)) {
    const std::string_view rest = std::string_view(answer).substr(static_cast<size_t>(at));
    for (const std::string_view tag : {kThinkOpen, kThinkClose})
      if (rest.starts_with(tag)) return {at, at + std::ssize(tag)};
  }
  fail_model(place, ": tags: there is no <think> or </think> at ", offset.dump().substr(0, 40));
}

FinishReason finish_of(JsonReader& reader) {
  const std::string text = reader.require_string("finish_reason");
  const auto at = std::find_if(kFinishes.begin(), kFinishes.end(),
                               [&](FinishReason f) { return text == name(f); });
  if (at == kFinishes.end())
    fail_model(reader.place(), ": finish_reason is ", quoted(text),
               ", expected stop, length, repetition or cancelled");
  return *at;
}

void read_message(const Json& json, const std::string& place, const std::string& role,
                  ChatSession& out) {
  JsonReader reader(object_of(json, place), place);
  if (const std::string found = reader.require_string("role"); found != role)
    fail_model(place, ": role is ", quoted(found), ", expected ", role);
  std::string content = reader.require_string("content");
  if (role == "system") {
    out.system = std::move(content);
  } else if (role == "user") {
    out.turns.push_back({std::move(content), ""});
  } else {
    ChatTurn& turn = out.turns.back();
    turn.answer = std::move(content);
    turn.finish = finish_of(reader);
    if (!reader.has("tags")) return require_known(reader);
    for (const Json& offset : array_of(reader, "tags")) {
      const ByteRange tag = tag_at(turn.answer, offset, place);
      if (!turn.control.empty() && tag.begin < turn.control.back().end)
        fail_model(place, ": tags are not in order");
      turn.control.push_back(tag);
    }
  }
  require_known(reader);
}

void read_messages(JsonReader& reader, ChatSession& out) {
  const Json::Array& messages = array_of(reader, "messages");
  const auto has_role = [](const Json& m, std::string_view role) {
    const Json* value = m.is_object() ? m.find("role") : nullptr;
    return value != nullptr && value->is_string() && value->as_string() == role;
  };
  const size_t first = !messages.empty() && has_role(messages[0], "system") ? 1 : 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    const char* role = i < first ? "system" : (i - first) % 2 == 0 ? "user" : "assistant";
    read_message(messages[i], str(reader.place(), ": messages[", i, "]"), role, out);
  }
  if ((messages.size() - first) % 2 != 0)
    fail_model(reader.place(), ": messages end with a question, expected its answer");
}

ChatSession read_session(const Json& json, const std::string& place) {
  JsonReader reader(object_of(json, place), place);
  if (!reader.has(kMagic)) fail_model(place, ": is not a saved chat: it has no ", kMagic);
  reader.require_int(kMagic, kFileVersion, kFileVersion);
  ChatSession out;
  JsonReader model(object_of(reader.require("model"), place + ": model"), place + ": model");
  out.model = model.require_string("name");
  out.fingerprint = model.require_string("fingerprint");
  require_known(model);
  out.chat_format = reader.require_string("chat_format");
  for (const Json& setting : array_of(reader, "settings")) {
    if (!setting.is_string())
      fail_model(place, ": settings hold ", setting.type_name(), ", expected string");
    out.settings.push_back(setting.as_string());
  }
  read_messages(reader, out);
  require_known(reader);
  return out;
}

// Anything may be at the path that a user types.
void require_session_or_nothing(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return;
  const MappedFile file = MappedFile::open(path);
  if (!file.text().substr(0, 64).starts_with(str("{\n  \"", kMagic, "\"")))
    fail_usage(escaped(path), ": exists and is not a saved chat: left as it is");
}

}  // namespace

std::string model_fingerprint(const std::string& model_dir) {
  Sha256 sha;
  for (const char* name :
       {"config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"}) {
    const std::string path = model_dir + "/" + name;
    std::error_code error;
    if (!std::filesystem::exists(path, error)) continue;
    const std::string bytes = read_file(path, kMaxFileBytes);
    sha.update(str(name, " ", bytes.size(), "\n"));
    sha.update(bytes);
  }
  return sha.finish();
}

void save_chat_session(const std::string& path, const ChatSession& session) {
  require_session_or_nothing(path);
  Json messages = Json::array();
  if (!session.system.empty()) messages.push_back(message("system", session.system));
  for (const ChatTurn& turn : session.turns) {
    messages.push_back(message("user", turn.user));
    messages.push_back(answer_of(turn));
  }
  Json model = Json::object();
  model.set("name", session.model);
  model.set("fingerprint", session.fingerprint);
  Json settings = Json::array();
  for (const std::string& setting : session.settings) settings.push_back(setting);
  Json out = Json::object();
  out.set(kMagic, kFileVersion);
  out.set("model", std::move(model));
  out.set("chat_format", session.chat_format);
  out.set("settings", std::move(settings));
  out.set("messages", std::move(messages));
  OutputFile file(path);
  file.write(out.pretty() + "\n");
  file.commit();
}

ChatSession load_chat_session(const std::string& path, std::string_view model,
                              std::string_view fingerprint) {
  const std::string place = escaped(path);
  ChatSession out = read_session(parse_json(read_file(path, kMaxFileBytes), place), place);
  if (out.fingerprint != fingerprint)
    fail_usage(place, ": is a chat with another model, ", quoted(out.model), " (",
               escaped(std::string_view(out.fingerprint).substr(0, 12)), "); this one is ",
               quoted(model), " (", fingerprint.substr(0, 12), ")");
  return out;
}

}  // namespace dsr
