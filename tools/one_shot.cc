// One prompt, one answer.
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <utility>

#include "deepseek_run/answer.h"
#include "deepseek_run/error.h"
#include "deepseek_run/tokenize.h"
#include "tools/answer_setup.h"
#include "tools/commands.h"
#include "tools/io.h"
#include "tools/model_dir.h"
#include "tools/prompt.h"
#include "tools/signals.h"
#include "tools/terminal.h"
#include "tools/text_printer.h"
#include "tools/truncate.h"

namespace dsr {
namespace {

std::string hex(uint64_t value) {
  std::string out(16, '0');
  for (size_t i = 16; i-- > 0; value >>= 4) out[i] = "0123456789abcdef"[value & 15];
  return out;
}

// Several answers in their order. The first that has not ended is shown as it comes, what the
// others say meanwhile waits. On a terminal each has a heading and ends with a line break;
// elsewhere each ends with a NUL byte and there are no headings.
class SamplesPrinter {
 public:
  using NewPrinter = std::function<TextPrinter()>;

  SamplesPrinter(Output& out, int64_t n, NewPrinter new_printer)
      : out_(out), n_(n), new_printer_(std::move(new_printer)), waiting_(static_cast<size_t>(n)) {}

  void piece(const SamplePiece& p) {
    waiting_.at(static_cast<size_t>(p.sample)).push_back(p);
    while (shown_ < n_ && show_waiting()) ++shown_;
  }

 private:
  // Whether the answer that is being shown has ended.
  bool show_waiting() {
    for (SamplePiece& p : std::exchange(waiting_.at(static_cast<size_t>(shown_)), {})) {
      if (!printer_) start();
      printer_->piece(p.piece);
      if (!p.last) continue;
      if (is_terminal(out_.fd()))
        printer_->end(FinishReason::kNone);
      else
        printer_->end_with_nul();
      printer_.reset();
      return true;
    }
    return false;
  }

  void start() {
    printer_.emplace(new_printer_());
    if (!is_terminal(out_.fd())) return;
    if (shown_ > 0) out_.write("\n");
    const std::string heading =
        "--- answer " + std::to_string(shown_ + 1) + " of " + std::to_string(n_) + " ---";
    out_.write((has_colour(out_.fd()) ? dimmed(heading) : heading) + "\n");
  }

  Output& out_;
  int64_t n_;
  NewPrinter new_printer_;
  std::vector<std::vector<SamplePiece>> waiting_;
  int64_t shown_ = 0;
  std::optional<TextPrinter> printer_;  // of the answer that is being shown
};

void show_prompt(const Options& options, const Prompt& prompt) {
  Output out(options.output);
  if (options.format == Format::kJson) {
    out.write(visible_json(prompt_json(prompt.text, prompt.ids)) + "\n");
  } else {
    std::string ids;
    for (const TokenId id : prompt.ids) ids += (ids.empty() ? "" : ",") + std::to_string(id);
    out.write(visible(prompt.text, escape_for(out.fd(), /*raw=*/false, options.strict_tty)) + "\n" +
              ids + "\n");
  }
  out.close();
}

AnswerRequest make_request(const Options& options, const Prompt& prompt, const ModelInfo& info) {
  AnswerRequest out;
  out.request.prompt = prompt.ids;
  out.request.max_new_tokens = options.predict;
  out.request.sampling = info.defaults;
  out.request.sampling.seed = random_seed();
  options.sampling.apply_to(out.request.sampling);
  out.stop = options.stop;
  // Without a chat format an answer is text as it is, unless something else was asked for.
  out.split_reasoning =
      prompt.chat || options.reasoning.value_or(ReasoningMode::kShow) != ReasoningMode::kShow;
  out.starts_in_reasoning = prompt.starts_in_reasoning;
  return out;
}

std::vector<Answer> print_text(const Options& options, Engine& engine, const Tokenizer& tokenizer,
                               const AnswerRequest& request) {
  Output out(options.output);
  const auto new_printer = [&] {
    return TextPrinter(out, options.reasoning.value_or(ReasoningMode::kShow),
                       escape_for(out.fd(), options.raw, options.strict_tty));
  };
  TextPrinter one = new_printer();
  SamplesPrinter several(out, options.n_samples, new_printer);
  const auto on_piece = [&](const SamplePiece& p) {
    if (options.n_samples == 1)
      one.piece(p.piece);
    else
      several.piece(p);
    return stop_signal() == 0;
  };
  std::vector<Answer> answers;
  try {
    answers = run_samples(engine, &tokenizer, request, options.n_samples, on_piece);
  } catch (const Error& e) {  // --debug-nan: the line of what was said before ends
    if (e.kind() == ErrorKind::kNonFinite && options.n_samples == 1) one.end(FinishReason::kError);
    throw;
  }
  acknowledge_stop();
  if (options.n_samples == 1) one.end(answers.front().finish);
  out.close();
  return answers;
}

std::vector<Answer> print_json(const Options& options, Engine& engine, const Tokenizer* tokenizer,
                               const AnswerRequest& request, bool chat) {
  Output out(options.output);
  std::vector<Answer> answers = run_samples(engine, tokenizer, request, options.n_samples,
                                            [](const SamplePiece&) { return stop_signal() == 0; });
  acknowledge_stop();
  const ReasoningMode mode = options.reasoning.value_or(ReasoningMode::kSeparate);
  std::vector<Answer> shown = answers;
  if (mode == ReasoningMode::kHide)
    for (Answer& a : shown) a.reasoning.clear();
  const std::string json = answer_json(shown, request.request.prompt,
                                       {.model = model_name(engine.info().directory),
                                        .id = (chat ? "chatcmpl-" : "cmpl-") + hex(random_bits()),
                                        .chat = chat,
                                        .separate_reasoning = mode != ReasoningMode::kShow,
                                        .log_probs = request.request.sampling.logprobs >= 0,
                                        .tokenizer = tokenizer});
  out.write(visible_json(json) + "\n");
  out.close();
  return answers;
}

std::vector<Answer> print_answers(const Options& options, Engine& engine,
                                  const Tokenizer* tokenizer, const AnswerRequest& request,
                                  bool chat) {
  try {
    return options.format == Format::kJson ? print_json(options, engine, tokenizer, request, chat)
                                           : print_text(options, engine, *tokenizer, request);
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::kUsage) throw;
    throw Error(e.kind(), e.what() + overflow_hint(options, std::ssize(request.request.prompt),
                                                   engine.info()));
  }
}

// What is said after the answers, and the exit code.
int conclude(const Options& options, const ModelInfo& info, const std::vector<Answer>& answers) {
  const auto any = [&](FinishReason finish) {
    return std::any_of(answers.begin(), answers.end(),
                       [&](const Answer& a) { return a.finish == finish; });
  };
  for (const Answer& answer : answers)
    if (answer.finish == FinishReason::kError)
      throw Error(ErrorKind::kNonFinite,
                  "a logit was not finite after " + std::to_string(answer.ids.size()) +
                      " tokens of the answer: the weights are damaged, or this is a bug");
  if (any(FinishReason::kLength) && options.predict < 0)
    notes(options.quiet)("the answer ends where the context of " + std::to_string(info.ctx_size) +
                         " tokens does (-c)");
  if (any(FinishReason::kRepetition))
    notes(options.quiet)(
        "the answer repeated itself and was ended (--loop-guard off lets it go on)");
  if (options.timings && !options.quiet) print_line(timing_line(answers, info.load_seconds));
  return stop_signal() == 0 ? 0 : 128 + stop_signal();
}

}  // namespace

int run_one_shot(const Options& options) {
  check_sampling(options);
  if (options.sampling.logprobs && options.format != Format::kJson)
    throw Error(ErrorKind::kUsage, "--logprobs needs --format json: text has no place for them");
  const std::string dir = find_model_dir(options.model, notes(options.quiet));
  const PromptInput input = read_prompt(options);
  const bool needs_text = !input.ids || (options.format == Format::kText && !options.show_prompt);
  const std::unique_ptr<Tokenizer> tokenizer =
      needs_text ? require_tokenizer(dir, options.quiet) : load_tokenizer(dir, options.quiet);
  Prompt prompt = make_prompt(options, dir, tokenizer.get(), input);
  const auto fit = [&](int64_t ctx_size) {
    if (options.truncate != Truncate::kNone)
      prompt = truncated(options, dir, tokenizer.get(), input, std::move(prompt), ctx_size);
  };
  if (options.show_prompt) {
    if (options.ctx_size > 0) fit(options.ctx_size);
    show_prompt(options, prompt);
    return 0;
  }

  const auto engine = Engine::create(engine_options(options, dir, tokenizer.get()));
  // Who watches wants to know why it is slow; a script's stderr stays as it is.
  if (!engine->info().device_note.empty() && (options.verbose || is_terminal(STDERR_FILENO)))
    notes(options.quiet)(engine->info().device_note + " (--device cpu: without this note)");
  fit(engine->info().ctx_size);
  const AnswerRequest request = make_request(options, prompt, engine->info());
  if (options.verbose) {
    print_line("seed " + std::to_string(request.request.sampling.seed));
    print_line(engine->plan().summary());
  }
  const std::vector<Answer> answers =
      print_answers(options, *engine, tokenizer.get(), request, prompt.chat);
  return conclude(options, engine->info(), answers);
}

}  // namespace dsr
