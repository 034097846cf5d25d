// Conversations rendered to the exact prompt text a checkpoint was trained on. No template is ever
// executed: each format is an encoder of our own, chosen by what the checkpoint's files say.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "deepseek_run/tokenizer.h"

namespace dsr {

enum class Role { kSystem, kUser, kAssistant };

struct ChatMessage {
  Role role = Role::kUser;
  std::string content;
};

// Whether the model should reason before it answers. Formats without a switch ignore it.
enum class Thinking { kAuto, kOn, kOff };

struct RenderedPrompt {
  std::string text;  // everything, BOS included
  // The bytes of `text` that came from messages: no control token may begin or end inside them.
  std::vector<ByteRange> literal;
  // The prompt ends inside a reasoning block (`<think>` is already open).
  bool starts_in_reasoning = false;
};

// How one family of checkpoints writes a conversation. Stateless.
class ChatFormat {
 public:
  virtual ~ChatFormat() = default;
  virtual std::string_view name() const = 0;  // as --chat-format takes it
  // The prompt that asks for the next assistant message. Messages: system ones first, then user
  // and assistant in turn, a user message last. Throws Error(kUsage) otherwise.
  virtual RenderedPrompt render(std::span<const ChatMessage> messages, Thinking thinking) const = 0;

  // The format with this name; Error(kUsage) that lists the names if there is none.
  static const ChatFormat& by_name(std::string_view name);
  static std::vector<std::string_view> names();
  // The format of a checkpoint, from its `architectures[0]`, its special tokens and tell-tale parts
  // of its chat template; nullptr if it has no template (a base model: raw completion). Throws
  // Error(kModel) naming --chat-format if no format is known to fit.
  static const ChatFormat* detect(std::string_view architecture, const Tokenizer& tokenizer);
};

// Splits generated text at `<think>` and `</think>` as it streams.
class ReasoningSplitter {
 public:
  explicit ReasoningSplitter(bool starts_in_reasoning) : inside_(starts_in_reasoning) {}
  struct Piece {
    std::string text;
    bool reasoning;
  };
  // The pieces that are certain after `text`; a tag that may still be completed is held back. The
  // tags themselves and the line breaks that belong to them are not part of any piece.
  std::vector<Piece> push(std::string_view text);
  std::vector<Piece> finish();

 private:
  bool inside_;
  bool strip_newlines_ = false;
  std::string pending_;
};

}  // namespace dsr
