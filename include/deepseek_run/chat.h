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
  // Bytes of an answer's `content` that are control tokens again in later turns: the <think> and
  // </think> that the model wrote as such. Ascending, disjoint.
  std::vector<ByteRange> control = {};
};

// Whether the model should reason before it answers. Formats without a switch ignore it.
enum class Thinking { kAuto, kOn, kOff };

struct RenderedPrompt {
  std::string text;  // everything, BOS included (but see add_bos)
  // The bytes of `text` that came from messages: no control token may begin or end inside them.
  std::vector<ByteRange> literal;
  // The prompt ends inside a reasoning block (`<think>` is already open).
  bool starts_in_reasoning = false;
  // The format has no control tokens (plain): BOS is added as for raw text (Tokenizer::add_bos).
  bool add_bos = false;
};

// A function that the model may ask to have called.
struct ChatTool {
  std::string name, description;
  std::string parameters;  // a JSON schema, as the prompt shows it
};

// Reads an array of tools as the OpenAI API takes them: {"type": "function", "function": {"name",
// "description", "parameters"}}, or only the inner objects. Throws Error(kUsage) naming `place`.
std::vector<ChatTool> parse_chat_tools(std::string_view json, std::string_view place);

// A prompt as the model gets it.
struct EncodedPrompt {
  std::string text;  // BOS included where it is written as text
  std::vector<TokenId> ids;
  bool starts_in_reasoning = false;
};
// With `allow_special` control tokens in the messages are control tokens.
EncodedPrompt encode_prompt(const Tokenizer& tokenizer, RenderedPrompt prompt,
                            bool allow_special = false);

// How one family of checkpoints writes a conversation. Stateless.
class ChatFormat {
 public:
  virtual ~ChatFormat() = default;
  virtual std::string_view name() const = 0;  // as --chat-format takes it
  // What the format writes that must be one token each: with a tokenizer that lacks one of these,
  // the model was not trained on this format.
  virtual std::vector<std::string_view> control_tokens() const = 0;
  // The prompt that asks for the next assistant message. Messages: system ones first, then user
  // and assistant in turn, a user message last. Throws Error(kUsage) otherwise, and for tools where
  // the format has none (V3.1 has, and calls them without reasoning).
  virtual RenderedPrompt render(std::span<const ChatMessage> messages, Thinking thinking,
                                std::span<const ChatTool> tools = {}) const = 0;

  // The format with this name; Error(kUsage) that lists the names if there is none.
  static const ChatFormat& by_name(std::string_view name);
  static std::vector<std::string_view> names();
  // The format of a checkpoint, from its `architectures[0]`, its special tokens and tell-tale parts
  // of its chat template; nullptr if it has no template (a base model: raw completion). Throws
  // Error(kModel) naming --chat-format if no format is known to fit.
  static const ChatFormat* detect(std::string_view architecture, const Tokenizer& tokenizer);
};

// Splits generated text at `<think>` and `</think>` as it streams. A reasoning block is one at the
// very start (white space may come before it); tags later in an answer are text like any other.
class ReasoningSplitter {
 public:
  explicit ReasoningSplitter(bool starts_in_reasoning)
      : state_(starts_in_reasoning ? State::kOpened : State::kStart) {}
  struct Piece {
    std::string text;
    bool reasoning;
  };
  // The pieces that are certain after `text`; a tag that may still be completed is held back. The
  // tags themselves and the line breaks around them are not part of any piece.
  std::vector<Piece> push(std::string_view text);
  std::vector<Piece> finish();

 private:
  enum class State {
    kStart,      // nothing but white space so far
    kOpened,     // after <think>, nothing but line breaks so far
    kReasoning,  // inside
    kClosed,     // after </think>, nothing but line breaks so far
    kAnswer,
  };
  bool step(std::vector<Piece>& out, bool at_end);
  bool step_before_text(bool at_end);
  bool step_reasoning(std::vector<Piece>& out, bool at_end);
  void emit(std::vector<Piece>& out, size_t size, bool reasoning);

  State state_;
  std::string pending_;
};

}  // namespace dsr
