#include "tools/prompt.h"

#include <unistd.h>

#include "deepseek_run/chat.h"
#include "deepseek_run/inspect.h"
#include "tools/io.h"
#include "tools/terminal.h"
#include "tools/values.h"

namespace dsr {
namespace {

// `echo` and editors end a text with a line break that is not part of it.
void drop_last_line_break(std::string& text) {
  if (text.ends_with('\n')) text.pop_back();
  if (text.ends_with('\r')) text.pop_back();
}

std::string read_file(const std::string& path, const Options& options) {
  if (!options.output.empty() && options.output != "-" && same_file(path, options.output))
    fail_usage("the prompt and -o are the same file: " + visible_line(options.output));
  return read_all(path);
}

std::string read_text(const std::string& path, const Options& options) {
  std::string text = read_file(path, options);
  if (!options.bytes) drop_last_line_break(text);
  return text;
}

// A prompt may be any bytes, if that is what is meant.
constexpr const char* kTryBytes = "\n  try: --bytes, which takes any bytes";

void add_bos(const Tokenizer& tokenizer, Prompt& prompt) {
  const std::optional<TokenId> bos = tokenizer.bos_id();
  if (!tokenizer.add_bos() || !bos) return;
  if (!prompt.ids.empty() && prompt.ids.front() == *bos) return;  // it is in the text
  prompt.ids.insert(prompt.ids.begin(), *bos);
  prompt.text.insert(0, tokenizer.token_bytes(*bos));
}

// The user's choice of a format is no guess, but it must be one that the model can read.
void check_format(const ChatFormat& format, const Tokenizer& tokenizer) {
  for (const std::string_view token : format.control_tokens())
    if (tokenizer.encode(token).size() != 1)
      throw Error(ErrorKind::kModel, "the chat format " + std::string(format.name()) +
                                         " needs the token " + std::string(token) +
                                         ", and the model's tokenizer.json has none such\n"
                                         "  try: --raw, or --chat-format plain");
}

// What --raw or --prompt-ids would leave without meaning is refused.
void check_flags(const Options& options) {
  if (!options.raw && !options.prompt_ids) return;
  const std::string other = options.prompt_ids ? "--prompt-ids" : "--raw";
  if (options.system) fail_usage("--system needs a chat format, and " + other + " is none");
  if (options.think != Thinking::kAuto)
    fail_usage("--think needs a chat format, and " + other + " is none");
  if (options.tools) fail_usage("--tools needs a chat format, and " + other + " is none");
  if (!options.chat_format.empty())
    fail_usage("--chat-format and " + other + " exclude each other");
  if (options.allow_special && options.prompt_ids)
    fail_usage("--allow-special is about text, and --prompt-ids is none");
}

// The ids or the text of a chat that was rendered elsewhere.
bool ends_with_open_think(std::string_view text) {
  text = text.substr(0, text.find_last_not_of(" \t\r\n") + 1);
  return text.ends_with("<think>");
}

void note_needless_think(const Options& options, const ChatFormat& format,
                         std::span<const ChatMessage> messages) {
  if (options.think == Thinking::kAuto) return;
  if (format.render(messages, Thinking::kOn).text == format.render(messages, Thinking::kOff).text)
    notes(options.quiet)("the chat format " + std::string(format.name()) +
                         " has no switch for reasoning: --think changes nothing");
}

}  // namespace

const ChatFormat* find_chat_format(const Options& options, const std::string& model_dir,
                                   const Tokenizer& tokenizer) {
  if (options.raw) return nullptr;
  if (!options.chat_format.empty()) {
    const ChatFormat& format = ChatFormat::by_name(options.chat_format);
    check_format(format, tokenizer);
    return &format;
  }
  return ChatFormat::detect(checkpoint_architecture(model_dir), tokenizer);
}

std::vector<ChatTool> read_tools(const Options& options) {
  if (!options.tools) return {};
  return parse_chat_tools(read_text(*options.tools, options), "--tools");
}

PromptInput read_prompt(const Options& options) {
  const int given =
      options.prompt.has_value() + options.file.has_value() + options.prompt_ids.has_value();
  if (given > 1) fail_usage("more than one prompt: give one of -p, -f and --prompt-ids");
  if (options.prompt_ids) {
    const std::string& ids = *options.prompt_ids;
    return {"", parse_ids("--prompt-ids",
                          ids.starts_with('@') ? read_file(ids.substr(1), options) : ids)};
  }
  if (options.prompt && *options.prompt != "-") return {*options.prompt, {}};
  if (options.file) return {read_text(*options.file, options), {}};
  std::string text = read_text("-", options);
  if (text.empty()) fail_usage("no prompt: standard input is empty\n  try: -p TEXT, -f FILE");
  return {std::move(text), {}};
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& model_dir, bool quiet) {
  return Tokenizer::is_in(model_dir) ? Tokenizer::load(model_dir, warnings(quiet)) : nullptr;
}

std::unique_ptr<Tokenizer> require_tokenizer(const std::string& model_dir, bool quiet) {
  std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(model_dir, quiet);
  if (tokenizer == nullptr)
    throw Error(ErrorKind::kModel, visible_line(model_dir) +
                                       ": has no tokenizer.json, and text needs one\n"
                                       "  try: --prompt-ids with --format json");
  return tokenizer;
}

Prompt make_raw_prompt(const Tokenizer* tokenizer, PromptInput input, bool bytes) {
  Prompt out;
  if (input.ids) {
    out.ids = std::move(*input.ids);
    if (tokenizer != nullptr) out.text = tokenizer->decode(out.ids);
    return out;
  }
  if (!bytes) check_utf8("the prompt", input.text, kTryBytes);
  out.text = std::move(input.text);
  out.ids = bytes ? tokenizer->encode_bytes(out.text) : tokenizer->encode(out.text);
  add_bos(*tokenizer, out);
  return out;
}

Prompt make_prompt(const Options& options, const std::string& model_dir, const Tokenizer* tokenizer,
                   PromptInput input) {
  check_flags(options);
  const ChatFormat* format = input.ids ? nullptr : find_chat_format(options, model_dir, *tokenizer);
  if (format == nullptr) {
    if (!input.ids && !options.raw)
      notes(options.quiet)("the model has no chat template: continuing the prompt as --raw does");
    Prompt out = make_raw_prompt(tokenizer, std::move(input), options.bytes);
    out.starts_in_reasoning = ends_with_open_think(out.text);
    return out;
  }

  check_utf8("the prompt", input.text, kTryBytes);
  std::vector<ChatMessage> messages;
  if (options.system) {
    check_utf8("the system prompt", *options.system);
    messages.push_back({Role::kSystem, *options.system});
  }
  messages.push_back({Role::kUser, std::move(input.text)});
  note_needless_think(options, *format, messages);
  const std::vector<ChatTool> tools = read_tools(options);
  EncodedPrompt encoded = encode_prompt(*tokenizer, format->render(messages, options.think, tools),
                                        options.allow_special);
  return {std::move(encoded.text), std::move(encoded.ids), /*chat=*/true,
          encoded.starts_in_reasoning};
}

}  // namespace dsr
