#include "text/chat_format.h"

#include "base/error.h"

namespace dsr {
namespace {

const char* name_of(Role role) {
  switch (role) {
    case Role::kSystem:
      return "system";
    case Role::kUser:
      return "user";
    case Role::kAssistant:
      return "assistant";
  }
  return "?";
}

// How many system messages come first; checks that the rest is user, assistant, ..., user.
size_t count_system(std::span<const ChatMessage> messages) {
  size_t n = 0;
  while (n < messages.size() && messages[n].role == Role::kSystem) ++n;
  for (size_t i = n; i < messages.size(); ++i) {
    const Role expected = (i - n) % 2 == 0 ? Role::kUser : Role::kAssistant;
    if (messages[i].role != expected)
      fail_usage("messages[", i, "] has the role ", name_of(messages[i].role), ", expected ",
                 name_of(expected), ": system messages first, then user and assistant in turn");
  }
  if ((messages.size() - n) % 2 == 0) fail_usage("messages: the last one must be a user message");
  return n;
}

// The system messages with `separator` between them. False if there are none.
bool add_system(PromptBuilder& prompt, std::span<const ChatMessage> system,
                std::string_view separator) {
  for (size_t i = 0; i < system.size(); ++i)
    prompt.control(i == 0 ? "" : separator).message(system[i].content);
  return !system.empty();
}

void refuse_tools(const ChatFormat& format, std::span<const ChatTool> tools) {
  if (!tools.empty())
    fail_usage("tools: the chat format ", format.name(), " has no place for them");
}

}  // namespace

PromptBuilder& PromptBuilder::message(std::string_view text) {
  const int64_t begin = std::ssize(prompt_.text);
  prompt_.text += text;
  if (!text.empty()) prompt_.literal.push_back({begin, std::ssize(prompt_.text)});
  return *this;
}

// What came from outside is literal, all but the tags that the model wrote.
PromptBuilder& PromptBuilder::answer(const ChatMessage& m, size_t from) {
  const int64_t shift = std::ssize(prompt_.text) - static_cast<int64_t>(from);
  int64_t begin = std::ssize(prompt_.text);
  prompt_.text += std::string_view(m.content).substr(from);
  const auto literal_until = [&](int64_t end) {
    if (begin < end) prompt_.literal.push_back({begin, end});
  };
  for (const ByteRange& tag : m.control) {
    if (tag.begin + shift < begin) continue;  // before `from`
    literal_until(tag.begin + shift);
    begin = tag.end + shift;
  }
  literal_until(std::ssize(prompt_.text));
  return *this;
}

// Earlier reasoning is not shown to the model again. R1 cuts after the last </think>, V3.1 after
// the first; their templates differ in this too.
size_t MarkerFormat::history_start(std::string_view content) const {
  if (style_ == ReasoningStyle::kNone) return 0;
  const size_t tag =
      style_ == ReasoningStyle::kAlways ? content.rfind(kThinkClose) : content.find(kThinkClose);
  return tag == content.npos ? 0 : tag + kThinkClose.size();
}

std::vector<std::string_view> MarkerFormat::control_tokens() const {
  std::vector<std::string_view> out = {kBosText, kEosText, kUserText, kAssistantText};
  if (style_ != ReasoningStyle::kNone) out.insert(out.end(), {kThinkOpen, kThinkClose});
  return out;
}

// The block that the V3.1 model card puts behind the system prompt.
void MarkerFormat::add_tools(PromptBuilder& prompt, std::span<const ChatTool> tools) const {
  if (tools.empty()) return;
  prompt.control("\n\n## Tools\nYou have access to the following tools:\n\n");
  for (const ChatTool& t : tools) {
    prompt.control("### ").message(t.name).control("\nDescription: ").message(t.description);
    prompt.control("\n\nParameters: ").message(t.parameters).control("\n\n");
  }
  prompt.control("IMPORTANT: ALWAYS adhere to this exact format for tool use:\n");
  prompt.control(kToolCallsBegin).control(kToolCallBegin).control("tool_call_name");
  prompt.control(kToolSeparator).control("tool_call_arguments").control(kToolCallEnd);
  prompt.control("{additional_tool_calls}").control(kToolCallsEnd);
  prompt.control(
      "\n\nWhere:\n"
      "- `tool_call_name` must be an exact match to one of the available tools\n"
      "- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters "
      "Schema\n"
      "- For multiple tool calls, chain them directly without separators or spaces");
}

RenderedPrompt MarkerFormat::render(std::span<const ChatMessage> messages, Thinking thinking,
                                    std::span<const ChatTool> tools) const {
  const bool has_tools = style_ == ReasoningStyle::kSwitch;
  if (!has_tools) refuse_tools(*this, tools);
  if (!tools.empty() && thinking == Thinking::kOn)
    fail_usage("tools: ", name_, " calls them without reasoning; --think on excludes them");
  const size_t n_system = count_system(messages);
  PromptBuilder prompt;
  prompt.control(kBosText);
  add_system(prompt, messages.first(n_system), "\n\n");
  add_tools(prompt, tools);
  for (const ChatMessage& m : messages.subspan(n_system)) {
    if (m.role == Role::kUser) {
      prompt.control(kUserText).message(m.content);
    } else {
      prompt.control(kAssistantText);
      if (style_ == ReasoningStyle::kSwitch) prompt.control(kThinkClose);
      prompt.answer(m, history_start(m.content)).control(kEosText);
    }
  }
  prompt.control(kAssistantText);
  bool reasons = false;
  if (style_ == ReasoningStyle::kAlways) {
    prompt.control(kThinkOpen).control("\n");
    reasons = true;
  } else if (style_ == ReasoningStyle::kSwitch) {
    reasons = thinking == Thinking::kOn;  // the released template is off unless asked
    prompt.control(reasons ? kThinkOpen : kThinkClose);
  }
  RenderedPrompt out = prompt.finish();
  out.starts_in_reasoning = reasons;
  return out;
}

RenderedPrompt TranscriptFormat::render(std::span<const ChatMessage> messages, Thinking,
                                        std::span<const ChatTool> tools) const {
  refuse_tools(*this, tools);
  const size_t n_system = count_system(messages);
  PromptBuilder prompt;
  prompt.control(kBosText);
  if (add_system(prompt, messages.first(n_system), "\n\n")) prompt.control("\n\n");
  for (const ChatMessage& m : messages.subspan(n_system)) {
    if (m.role == Role::kUser) {
      prompt.control("User: ").message(m.content).control("\n\n");
    } else {
      prompt.control("Assistant: ").answer(m).control(kEosText);
    }
  }
  return prompt.control("Assistant:").finish();
}

RenderedPrompt InstructionFormat::render(std::span<const ChatMessage> messages, Thinking,
                                         std::span<const ChatTool> tools) const {
  refuse_tools(*this, tools);
  constexpr std::string_view kSystem =
      "You are an AI programming assistant, utilizing the Deepseek Coder model, developed by "
      "Deepseek Company, and you only answer questions related to computer science. For "
      "politically sensitive questions, security and privacy issues, and other non-computer "
      "science questions, you will refuse to answer\n";
  const size_t n_system = count_system(messages);
  PromptBuilder prompt;
  prompt.control(kBosText);
  if (!add_system(prompt, messages.first(n_system), "")) prompt.control(kSystem);
  for (const ChatMessage& m : messages.subspan(n_system)) {
    if (m.role == Role::kUser) {
      prompt.control("### Instruction:\n").message(m.content).control("\n");
    } else {
      prompt.control("### Response:\n").answer(m).control("\n<|EOT|>\n");
    }
  }
  return prompt.control("### Response:\n").finish();
}

RenderedPrompt PlainFormat::render(std::span<const ChatMessage> messages, Thinking,
                                   std::span<const ChatTool> tools) const {
  refuse_tools(*this, tools);
  const size_t n_system = count_system(messages);
  PromptBuilder prompt;
  if (add_system(prompt, messages.first(n_system), "\n\n")) prompt.control("\n\n");
  for (const ChatMessage& m : messages.subspan(n_system)) {
    const bool is_user = m.role == Role::kUser;
    prompt.control(is_user ? "User: " : "Assistant: ").answer(m).control("\n\n");
  }
  RenderedPrompt out = prompt.control("Assistant:").finish();
  out.add_bos = true;
  return out;
}

EncodedPrompt encode_prompt(const Tokenizer& tokenizer, RenderedPrompt prompt, bool allow_special) {
  if (allow_special) prompt.literal.clear();
  EncodedPrompt out{std::move(prompt.text), {}, prompt.starts_in_reasoning};
  out.ids = tokenizer.encode(out.text, prompt.literal);
  const std::optional<TokenId> bos = tokenizer.bos_id();
  const bool has_bos = bos && !out.ids.empty() && out.ids.front() == *bos;
  if (prompt.add_bos && tokenizer.add_bos() && bos && !has_bos) {
    out.ids.insert(out.ids.begin(), *bos);
    out.text.insert(0, tokenizer.token_bytes(*bos));
  }
  return out;
}

}  // namespace dsr
