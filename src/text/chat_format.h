// The chat formats that ChatFormat::by_name knows, one class per way of writing.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "deepseek_run/chat.h"
#include "text/control_tokens.h"

namespace dsr {

// Puts a prompt together from what the format writes and what the messages say.
class PromptBuilder {
 public:
  PromptBuilder& control(std::string_view text) {
    prompt_.text += text;
    return *this;
  }
  PromptBuilder& message(std::string_view text);
  // The content of an answer from byte `from` on.
  PromptBuilder& answer(const ChatMessage& message, size_t from = 0);
  RenderedPrompt finish() { return std::move(prompt_); }

 private:
  RenderedPrompt prompt_;
};

// What a family does with the reasoning of a model.
enum class ReasoningStyle {
  kNone,    // V2.5, V3: nothing
  kAlways,  // R1: a prompt ends with an open <think>, earlier reasoning is dropped
  kSwitch,  // V3.1: <think> or </think> as the caller wishes, earlier reasoning is dropped
};

// B{system}U{user}A{answer}EU{user}A: V2.5, V3, R1, V3.1.
class MarkerFormat : public ChatFormat {
 public:
  MarkerFormat(std::string_view name, ReasoningStyle style) : name_(name), style_(style) {}
  std::string_view name() const override { return name_; }
  std::vector<std::string_view> control_tokens() const override;
  RenderedPrompt render(std::span<const ChatMessage> messages, Thinking thinking,
                        std::span<const ChatTool> tools) const override;

 private:
  void add_tools(PromptBuilder& prompt, std::span<const ChatTool> tools) const;
  size_t history_start(std::string_view content) const;

  std::string_view name_;
  ReasoningStyle style_;
};

// B{system}\n\nUser: {user}\n\nAssistant: {answer}E...: LLM, MoE-16B, the first V2 and Coder-V2.
class TranscriptFormat : public ChatFormat {
 public:
  explicit TranscriptFormat(std::string_view name) : name_(name) {}
  std::string_view name() const override { return name_; }
  std::vector<std::string_view> control_tokens() const override { return {kBosText, kEosText}; }
  RenderedPrompt render(std::span<const ChatMessage> messages, Thinking thinking,
                        std::span<const ChatTool> tools) const override;

 private:
  std::string_view name_;
};

// ### Instruction: and ### Response:, with a system text of its own: Coder v1.
class InstructionFormat : public ChatFormat {
 public:
  std::string_view name() const override { return "deepseek-coder"; }
  std::vector<std::string_view> control_tokens() const override { return {kBosText, "<|EOT|>"}; }
  RenderedPrompt render(std::span<const ChatMessage> messages, Thinking thinking,
                        std::span<const ChatTool> tools) const override;
};

// User: and Assistant: without any control token, for models that have no format.
class PlainFormat : public ChatFormat {
 public:
  std::string_view name() const override { return "plain"; }
  std::vector<std::string_view> control_tokens() const override { return {}; }
  RenderedPrompt render(std::span<const ChatMessage> messages, Thinking thinking,
                        std::span<const ChatTool> tools) const override;
};

}  // namespace dsr
