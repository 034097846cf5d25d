// A chat in a file.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "deepseek_run/conversation.h"

namespace dsr {

struct ChatSession {
  std::string model;        // a name, for people
  std::string fingerprint;  // model_fingerprint
  std::string chat_format;
  std::string system;                 // empty: none
  std::vector<std::string> settings;  // "name=value", as the caller writes and reads them
  std::vector<ChatTurn> turns;
  bool operator==(const ChatSession&) const = default;
};

// The SHA-256 of a model directory's config.json and tokenizer files: what decides whether the
// turns of a chat mean the same to another model.
std::string model_fingerprint(const std::string& model_dir);

// The file appears whole or not at all. A file that exists and is no session is left alone:
// Error(kUsage). Throws Error(kOutput).
void save_chat_session(const std::string& path, const ChatSession& session);
// Throws Error(kModel) for what cannot be read or is no session, Error(kUsage) for one of another
// model than `model` with `fingerprint`.
ChatSession load_chat_session(const std::string& path, std::string_view model,
                              std::string_view fingerprint);

}  // namespace dsr
