// Which chat format a checkpoint has: by name, or by what its files say.
#include <algorithm>
#include <initializer_list>

#include "base/error.h"
#include "text/chat_format.h"

namespace dsr {
namespace {

// Stateless and immutable, in the order that names() lists them.
std::span<const ChatFormat* const> all_formats() {
  static const MarkerFormat v3_1("deepseek-v3.1", ReasoningStyle::kSwitch);
  static const MarkerFormat r1("deepseek-r1", ReasoningStyle::kAlways);
  static const MarkerFormat v3("deepseek-v3", ReasoningStyle::kNone);
  static const MarkerFormat v2_5("deepseek-v2.5", ReasoningStyle::kNone);
  static const TranscriptFormat v2("deepseek-v2");
  static const TranscriptFormat llm("deepseek-llm");
  static const InstructionFormat coder;
  static const PlainFormat plain;
  static const ChatFormat* const all[] = {&v3_1, &r1, &v3, &v2_5, &v2, &llm, &coder, &plain};
  return all;
}

std::string joined(std::span<const std::string_view> names) {
  std::string out;
  for (const std::string_view n : names) out += str(out.empty() ? "" : ", ", n);
  return out;
}

// One way to recognise a checkpoint. White space and how a template was saved play no part: only
// words that every version of it must contain.
struct Row {
  std::string_view format;
  std::vector<std::string_view> architectures;
  std::vector<std::string_view> has;    // in the template
  std::vector<std::string_view> lacks;  // in the template
  std::vector<std::string_view> tokens;
};

std::vector<Row> rows() {
  constexpr std::string_view kV2 = "DeepseekV2ForCausalLM", kV3 = "DeepseekV3ForCausalLM",
                             kV32 = "DeepseekV32ForCausalLM", kMoe = "DeepseekForCausalLM",
                             kLlama = "LlamaForCausalLM", kQwen2 = "Qwen2ForCausalLM";
  const std::vector<std::string_view> markers = {kUserText, kAssistantText};
  return {
      // V3.1 has the variable `thinking`; R1 only cuts at </think>; V3 knows of neither.
      {"deepseek-v3.1",
       {kV3, kV32},
       {kUserText, kAssistantText, kThinkClose, "thinking"},
       {},
       {kUserText, kAssistantText, kThinkOpen, kThinkClose}},
      {"deepseek-r1",
       {kV3, kQwen2, kLlama},
       {kUserText, kAssistantText, kThinkClose},
       {"thinking"},
       {kUserText, kAssistantText, kThinkOpen, kThinkClose}},
      {"deepseek-v3", {kV3}, markers, {kThinkClose}, markers},
      {"deepseek-v2.5", {kV2}, markers, {kThinkClose}, markers},
      {"deepseek-v2", {kV2}, {"User:", "Assistant:"}, {kUserText}, {kBosText}},
      {"deepseek-llm", {kLlama, kMoe}, {"User:", "Assistant:"}, {kUserText}, {kBosText}},
      {"deepseek-coder",
       {kLlama},
       {"### Instruction:", "### Response:"},
       {},
       {kBosText, "<|EOT|>"}},
  };
}

bool matches(const Row& row, std::string_view architecture, const Tokenizer& tokenizer) {
  const std::string_view text = tokenizer.chat_template();
  const auto in_template = [&](std::string_view part) { return text.find(part) != text.npos; };
  const auto in_vocabulary = [&](std::string_view token) {
    return tokenizer.find(token).has_value();
  };
  return std::find(row.architectures.begin(), row.architectures.end(), architecture) !=
             row.architectures.end() &&
         std::all_of(row.has.begin(), row.has.end(), in_template) &&
         std::none_of(row.lacks.begin(), row.lacks.end(), in_template) &&
         std::all_of(row.tokens.begin(), row.tokens.end(), in_vocabulary);
}

}  // namespace

const ChatFormat& ChatFormat::by_name(std::string_view name) {
  for (const ChatFormat* format : all_formats()) {
    if (format->name() == name) return *format;
  }
  fail_usage("chat format ", quoted(name), " is not known (known: ", joined(names()), ")");
}

std::vector<std::string_view> ChatFormat::names() {
  std::vector<std::string_view> out;
  for (const ChatFormat* format : all_formats()) out.push_back(format->name());
  return out;
}

const ChatFormat* ChatFormat::detect(std::string_view architecture, const Tokenizer& tokenizer) {
  if (tokenizer.chat_template().empty()) return nullptr;
  for (const Row& row : rows()) {
    if (matches(row, architecture, tokenizer)) return &by_name(row.format);
  }
  fail_model("chat template: no chat format is known for it and the architecture ",
             quoted(architecture), "\n  try: --chat-format NAME (", joined(names()), ")");
}

}  // namespace dsr
