// What begins with a slash.
#include <algorithm>
#include <array>

#include "deepseek_run/tokenize.h"
#include "tools/arguments.h"
#include "tools/chat_options.h"
#include "tools/external_editor.h"
#include "tools/model_dir.h"
#include "tools/prompt.h"
#include "tools/repl.h"
#include "tools/terminal.h"
#include "tools/values.h"

namespace dsr {
namespace {

std::string_view first_word(std::string_view line) {
  return line.substr(0, line.find_first_of(kBlanks));
}

// Other chats' names for ours.
struct Alias {
  std::string_view name, primary;
};
constexpr std::array kAliases = {
    Alias{"/?", "/help"},      Alias{"/quit", "/exit"},   Alias{"/q", "/exit"},
    Alias{"/bye", "/exit"},    Alias{"/reset", "/clear"}, Alias{"/new", "/clear"},
    Alias{"/retry", "/regen"},
};

// A home directory is what the shell would have put in its place.
std::string path_of(const std::string& typed) {
  const char* home = std::getenv("HOME");
  return typed.starts_with("~/") && home != nullptr ? home + typed.substr(1) : typed;
}

std::string count_of(size_t n, const char* what) {
  return std::to_string(n) + " " + what + (n == 1 ? "" : "s");
}

const char* mark_of(FinishReason finish) {
  switch (finish) {
    case FinishReason::kCancelled:
      return "\n[stopped]";
    case FinishReason::kLength:
      return "\n[cut: its length]";
    case FinishReason::kRepetition:
      return "\n[cut: it went in circles]";
    default:
      return "";
  }
}

}  // namespace

std::span<const Repl::Command> Repl::commands() {
  static constexpr std::array kCommands = {
      Command{"/help", "", "this list", &Repl::help},
      Command{"/exit", "", "leave; so does Ctrl-D", &Repl::exit},
      Command{"/clear", "", "forget all turns", &Repl::clear},
      Command{"/regen", "", "answer the last message anew", &Repl::regenerate},
      Command{"/edit", "", "change the last message and send it again", &Repl::edit},
      Command{"/undo", "", "forget the last turn", &Repl::undo},
      Command{"/save", "[FILE]", "write the chat to a file", &Repl::save},
      Command{"/load", "FILE", "go on with a saved chat", &Repl::load},
      Command{"/read", "FILE", "put a file in front of the next message", &Repl::read_file},
      Command{"/system", "[TEXT]", "the system prompt; \"\" for none", &Repl::set_system},
      Command{"/set", "[NAME=VALUE]", "what a flag of that name sets: temp=0.5, seed=1, stop=...",
              &Repl::set},
      Command{"/think", "[on|off|auto]", "reason before answering", &Repl::think},
      Command{"/stats", "", "speed of the last answer, tokens of the chat", &Repl::stats},
      Command{"/tokens", "[TEXT]", "how full the context is, or the tokens of a text",
              &Repl::tokens},
      Command{"/show", "[prompt]", "the chat, or the prompt as the model gets it", &Repl::show},
      Command{"/plan", "", "what the memory is used for", &Repl::plan},
  };
  return kCommands;
}

const Repl::Command* Repl::find_command(std::string_view line) {
  std::string_view word = first_word(line);
  for (const Alias& alias : kAliases)
    if (alias.name == word) word = alias.primary;
  for (const Command& command : commands())
    if (command.name == word) return &command;
  return nullptr;
}

void Repl::run_command(const std::string& line) {
  const Command* command = find_command(line);
  const std::string_view word = first_word(line);
  if (command == nullptr) {
    std::vector<std::string> names;
    for (const Command& c : commands()) names.emplace_back(c.name);
    const std::string near = nearest(word, names);
    fail_usage("unknown command " + visible_line(word) + "\n  try: " +
               (near.empty() ? "/help, or \"\"\" around a message that begins with /" : near));
  }
  const std::string argument(trimmed(std::string_view(line).substr(word.size())));
  if (command->argument.empty() && !argument.empty())
    fail_usage(std::string(command->name) + " takes nothing, found \"" + visible_line(argument) +
               "\"");
  if (!command->argument.empty() && command->argument[0] != '[' && argument.empty())
    fail_usage(std::string(command->name) + " needs a " + std::string(command->argument));
  (this->*command->run)(argument);
}

void Repl::help(const std::string&) {
  constexpr size_t kColumn = 24;
  std::string out;
  for (const Command& c : commands()) {
    std::string left = "  " + std::string(c.name) + " " + std::string(c.argument);
    left.resize(std::max(kColumn, left.size() + 1), ' ');
    out += left + std::string(c.help) + "\n";
  }
  print(out +
        "\"\"\" begins a message of several lines and ends it. Ctrl-C stops an answer; twice, it "
        "leaves.\n");
}

void Repl::exit(const std::string&) { running_ = false; }

void Repl::clear(const std::string&) {
  const size_t n = chat_.turns().size();
  chat_.clear();
  attached_.clear();
  print_line("forgot " + count_of(n, "turn"));
}

void Repl::regenerate(const std::string&) {
  if (chat_.turns().empty()) fail_usage("there is no answer yet");
  ++n_again_;
  answer([&](const ChatSettings& s, const auto& on_piece) { return chat_.ask_again(s, on_piece); });
}

// In the user's editor where there is one; else in the line, if it can hold the message.
void Repl::edit(const std::string&) {
  if (chat_.turns().empty()) fail_usage("there is no message yet");
  const std::string& last = chat_.turns().back().user;
  const std::string command = editor_command();
  if (command.empty()) {
    if (!place_.input.can_prefill())
      fail_usage("no editor\n  try: VISUAL or EDITOR in the environment");
    prefill_ = last;
    editing_ = true;
    return;
  }
  std::optional<std::string> text;
  {
    const TerminalModes::Scope found(place_.modes, TerminalModes::Mode::kFound);
    text = edit_text(command, last);
  }
  if (!text) fail_usage("the editor failed: the message stays as it was");
  check_utf8("the message", *text);
  if (*text == last || trimmed(*text).empty()) return print_line("the message stays as it was");
  place_.input.remember(*text);
  send_instead_of_last(*text);
}

void Repl::undo(const std::string&) {
  if (chat_.turns().empty()) fail_usage("there is no turn to forget");
  const std::string last = chat_.turns().back().user;
  chat_.undo();
  print_line("forgot \"" + visible_line(last) + "\" and its answer");
}

void Repl::save(const std::string& path) {
  const std::string target = path.empty() ? session_path_ : path_of(path);
  if (target.empty()) fail_usage("/save needs a FILE");
  save_chat_session(target, {.model = model_name(place_.model_dir),
                             .fingerprint = model_fingerprint(place_.model_dir),
                             .chat_format = std::string(chat_.format().name()),
                             .system = chat_.system(),
                             .settings = changed_settings(options_),
                             .turns = chat_.turns()});
  session_path_ = target;
  print_line("saved " + count_of(chat_.turns().size(), "turn") + " to " + visible_line(target));
}

void Repl::load(const std::string& path) {
  const std::string source = path_of(path);
  ChatSession session =
      load_chat_session(source, model_name(place_.model_dir), model_fingerprint(place_.model_dir));
  change_settings(options_, session.settings, place_.engine.info().vocab_size);
  chat_.set_system(std::move(session.system));
  chat_.set_turns(std::move(session.turns));
  session_path_ = source;
  if (session.chat_format != chat_.format().name())
    notes(options_.quiet)("it was in the chat format " + visible_line(session.chat_format) +
                          " and goes on in " + std::string(chat_.format().name()));
  print_line("loaded " + count_of(chat_.turns().size(), "turn") + ", " +
             context_use(chat_.n_tokens(settings()), place_.engine.info().ctx_size));
}

void Repl::read_file(const std::string& path) {
  const std::string source = path_of(path);
  std::string text = read_all(source);
  check_utf8(visible_line(source), text);
  if (!text.ends_with('\n')) text += '\n';
  const size_t n = place_.tokenizer.encode(text, std::array{ByteRange{0, std::ssize(text)}}).size();
  attached_ += text;
  print_line(visible_line(source) + ": " + count_of(n, "token") +
             " go in front of the next message");
}

void Repl::set_system(const std::string& text) {
  if (!text.empty()) chat_.set_system(text == "\"\"" ? "" : text);
  print_line(chat_.system().empty() ? "no system prompt" : "system prompt: " + chat_.system());
}

void Repl::set(const std::string& assignment) {
  if (!assignment.empty())
    return change_settings(options_, {assignment}, place_.engine.info().vocab_size);
  print(settings_text(options_, settings()));
}

void Repl::think(const std::string& mode) {
  if (!mode.empty()) change_settings(options_, {"think=" + mode}, place_.engine.info().vocab_size);
  constexpr std::array<const char*, 3> kModes = {"auto", "on", "off"};
  print_line(std::string("think: ") + kModes[static_cast<size_t>(options_.think)]);
  ChatSettings on = settings(), off = on;
  on.thinking = Thinking::kOn;
  off.thinking = Thinking::kOff;
  if (!mode.empty() && place_.tools.empty() &&
      chat_.prompt("", on).text == chat_.prompt("", off).text)
    notes(options_.quiet)("the chat format " + std::string(chat_.format().name()) +
                          " has no switch for reasoning: it changes nothing");
}

void Repl::stats(const std::string&) {
  const ModelInfo& info = place_.engine.info();
  if (last_) print_line(timing_line({*last_}, info.load_seconds));
  print_line(totals_line(place_.engine.stats()));
}

void Repl::tokens(const std::string& text) {
  if (text.empty())
    return print_line(context_use(chat_.n_tokens(settings()), place_.engine.info().ctx_size));
  print(tokens_text(place_.tokenizer, place_.tokenizer.encode(text)));
}

void Repl::show(const std::string& what) {
  if (!what.empty() && what != "prompt") fail_usage("/show takes \"prompt\" or nothing");
  if (what == "prompt") {
    const EncodedPrompt prompt = chat_.prompt("", settings());
    std::string ids;
    for (const TokenId id : prompt.ids) ids += (ids.empty() ? "" : ",") + std::to_string(id);
    return print_line(prompt.text + "\n" + ids);
  }
  std::string out;
  if (!chat_.system().empty()) out += "system: " + chat_.system() + "\n\n";
  for (const ChatTurn& turn : chat_.turns())
    out += "> " + turn.user + "\n" + turn.answer + mark_of(turn.finish) + "\n\n";
  print(out.empty() ? "nothing yet\n" : out);
}

void Repl::plan(const std::string&) { print_line(place_.engine.plan().summary()); }

}  // namespace dsr
