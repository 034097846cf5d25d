#include "tools/repl.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "deepseek_run/error.h"
#include "tools/answer_setup.h"
#include "tools/chat_options.h"
#include "tools/commands.h"
#include "tools/input_bytes.h"
#include "tools/model_dir.h"
#include "tools/prompt.h"
#include "tools/signals.h"
#include "tools/terminal.h"
#include "tools/text_printer.h"
#include "tools/values.h"

namespace dsr {
namespace {

// The context is nearly full from here on.
constexpr double kNearlyFull = 0.9;

// A chat needs turns. A model without a template gets those of the plain format.
const ChatFormat& format_of_chat(const Options& options, const std::string& dir,
                                 const Tokenizer& tokenizer) {
  if (const ChatFormat* format = find_chat_format(options, dir, tokenizer)) return *format;
  notes(options.quiet)(
      "the model has no chat template: the chat is written as User: and Assistant:, as with "
      "--chat-format plain");
  return ChatFormat::by_name("plain");
}

std::optional<std::string> first_turn_of(const Options& options) {
  if (!options.prompt && !options.file) return std::nullopt;
  return read_prompt(options).text;
}

}  // namespace

bool wants_chat(const Options& o) {
  const bool has_prompt = o.prompt || o.file || o.prompt_ids;
  if (!o.interactive && (has_prompt || !is_terminal(STDIN_FILENO))) return false;
  const auto refuse = [&](bool given, const char* flag) {
    if (given)
      fail_usage(std::string(flag) + " has no place in a chat" +
                 (has_prompt ? "\n  try: it without -i" : "\n  try: a prompt, with -p or -f"));
  };
  refuse(o.raw, o.bytes ? "--bytes" : "--raw");
  refuse(o.prompt_ids.has_value(), "--prompt-ids");
  refuse(o.format != Format::kText, "--format json");
  refuse(!o.output.empty(), "-o");
  refuse(o.show_prompt, "--show-prompt");
  refuse(o.n_samples > 1, "--n-samples");
  refuse(o.sampling.logprobs.has_value(), "--logprobs");
  refuse(o.prompt && *o.prompt == "-", "-p -");
  refuse(o.file && *o.file == "-", "-f -");
  const auto is_truncate = [](const Given& g) {
    return g.name == "truncate" && g.source == "flag";
  };
  refuse(std::any_of(o.given.begin(), o.given.end(), is_truncate), "--truncate");
  return true;
}

Repl::Repl(const ChatPlace& place, Options options)
    : place_(place),
      options_(std::move(options)),
      chat_(place.engine, place.tokenizer, place.format),
      reader_(place.input, [](std::string_view line) { return find_command(line) != nullptr; }),
      out_("") {
  chat_.set_system(options_.system.value_or(""));
}

int Repl::run(const std::optional<std::string>& first_turn) {
  const ChatSignals signals;
  try {
    if (first_turn) guarded([&] { send(*first_turn); });
    loop();
  } catch (const Error&) {
    if (!is_gone()) throw;
    hung_up_ = true;  // the signal that says so may still be under way
  }
  acknowledge_stop();
  if (stop_signal() != 0) return 128 + stop_signal();
  return hung_up_ ? 128 + SIGHUP : 0;
}

// Whether nobody sees any more what we write.
bool Repl::is_gone() const {
  return stop_signal() == SIGHUP || is_hung_up(STDIN_FILENO) || is_hung_up(out_.fd());
}

void Repl::loop() {
  while (running_ && stop_signal() == 0) {
    const ChatInput input = reader_.next(std::exchange(prefill_, {}));
    guarded([&] { handle(input); });
    editing_ = editing_ && !prefill_.empty();
  }
}

// What a user can cause ends a command, not the chat; that an answer cannot be written ends it.
void Repl::guarded(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& e) {
    if (output_lost_) throw;
    print_line(std::string("error: ") + e.what());
  }
}

void Repl::handle(const ChatInput& input) {
  switch (input.kind) {
    case ChatInput::Kind::kText:
      if (input.text.find_first_not_of(" \t\n") == input.text.npos && attached_.empty()) return;
      place_.input.remember(input.text);
      return std::exchange(editing_, false) ? send_instead_of_last(input.text) : send(input.text);
    case ChatInput::Kind::kCommand:
      place_.input.remember(input.text);
      return run_command(input.text);
    case ChatInput::Kind::kInterrupt:
      return print_line("(Ctrl-C again or Ctrl-D leaves; /help lists the commands)");
    case ChatInput::Kind::kEnd:
      running_ = false;
      return;
    case ChatInput::Kind::kStop:
      running_ = false;
      hung_up_ = stop_signal() == 0;
      return;
  }
}

ReasoningMode Repl::reasoning() const { return options_.reasoning.value_or(ReasoningMode::kShow); }

ChatSettings Repl::settings() const {
  ChatSettings out;
  out.thinking = options_.think;
  out.tools = place_.tools;
  out.allow_special = options_.allow_special;
  out.sampling = place_.engine.info().defaults;
  out.sampling.seed = random_seed();
  options_.sampling.apply_to(out.sampling);
  out.sampling.sample_index = n_again_;
  out.stop = options_.stop;
  // Without control tokens nothing else says that it is the user's turn.
  if (chat_.format().control_tokens().empty()) out.stop.push_back("\nUser:");
  out.max_new_tokens = options_.predict;
  return out;
}

void Repl::send(const std::string& text) {
  n_again_ = 0;
  answer([&](const ChatSettings& s, const auto& on_piece) {
    return chat_.ask(attached_ + text, s, on_piece);
  });
  attached_.clear();
}

void Repl::send_instead_of_last(const std::string& text) {
  const std::vector<ChatTurn> before = chat_.turns();
  chat_.undo();
  try {
    send(text);
  } catch (...) {
    chat_.set_turns(before);
    throw;
  }
  if (chat_.turns().size() < before.size()) chat_.set_turns(before);
}

void Repl::answer(const std::function<Answer(
                      const ChatSettings&, const std::function<bool(const AnswerPiece&)>&)>& ask) {
  const TerminalModes::Scope quiet(place_.modes, TerminalModes::Mode::kQuiet);
  const bool on_terminal = is_terminal(out_.fd());
  TextPrinter printer(out_, reasoning(), escape_for(out_.fd(), /*raw=*/false, options_.strict_tty));
  take_interrupt();  // one that came before is not about this answer
  bool wanted = true;
  const auto on_piece = [&](const AnswerPiece& piece) {
    output_lost_ = true;  // unless this comes back
    printer.piece(piece);
    output_lost_ = false;
    if (take_interrupt() || stop_signal() != 0) wanted = false;
    return wanted;
  };
  last_ = ask(settings(), on_piece);
  acknowledge_stop();
  output_lost_ = true;
  printer.end(last_->finish);
  conclude(*last_);
  if (on_terminal) out_.write("\n");
  output_lost_ = false;
}

// What there is to say about how the answer ended.
void Repl::conclude(const Answer& answer) {
  const ModelInfo& info = place_.engine.info();
  const int64_t n = answer.prompt_tokens + std::ssize(answer.ids);
  const WarningSink note = notes(options_.quiet);
  if (answer.finish == FinishReason::kCancelled) print_line("[stopped]");
  if (answer.finish == FinishReason::kError)
    print_line("error: a logit was not finite: the weights are damaged, or this is a bug");
  if (answer.finish == FinishReason::kRepetition)
    note("the answer went in circles and was ended (--loop-guard)");
  if (n >= info.ctx_size)
    note("the answer ends where the context does: " + context_use(n, info.ctx_size) +
         "\n  try: /undo, /clear, or a larger -c");
  else if (static_cast<double>(n) >= kNearlyFull * static_cast<double>(info.ctx_size))
    note("the chat is at " + context_use(n, info.ctx_size) +
         "; nothing is dropped when it is full\n  try: /undo or /clear makes room");
  else if (answer.finish == FinishReason::kLength)
    note("the answer ends after " + std::to_string(answer.ids.size()) + " tokens (--predict)");
  if (options_.verbose) print_line(timing_line({answer}, info.load_seconds));
}

int run_repl(const Options& options) {
  check_sampling(options);
  const std::string dir = find_model_dir(options.model, notes(options.quiet));
  const std::optional<std::string> first_turn = first_turn_of(options);
  if (options.system) check_utf8("the system prompt", *options.system);
  const std::unique_ptr<Tokenizer> tokenizer = require_tokenizer(dir, options.quiet);
  const ChatFormat& format = format_of_chat(options, dir, *tokenizer);
  std::vector<ChatTool> tools = read_tools(options);
  const auto engine = Engine::create(engine_options(options, dir, tokenizer.get()));
  if (options.verbose) print_line(engine->plan().summary());
  TerminalModes modes;
  const std::unique_ptr<LineInput> input = make_line_input(screen_of_chat(), modes);
  Repl repl({*engine, *tokenizer, format, *input, modes, dir, std::move(tools)}, options);
  return repl.run(first_turn);
}

}  // namespace dsr
