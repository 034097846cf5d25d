// One prompt, one answer.
#include <unistd.h>

#include <random>

#include "deepseek_run/answer.h"
#include "deepseek_run/error.h"
#include "deepseek_run/tokenize.h"
#include "tools/commands.h"
#include "tools/io.h"
#include "tools/model_dir.h"
#include "tools/prompt.h"
#include "tools/signals.h"
#include "tools/terminal.h"

namespace dsr {
namespace {

// The id of an answer, and the seed where none was given: both have nothing to be reproduced from.
uint64_t random_bits() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

uint64_t random_seed() {
  return random_bits() >> 11;  // below 2^53: every reader of JSON takes it exactly
}

std::string hex(uint64_t value) {
  std::string out(16, '0');
  for (size_t i = 16; i-- > 0; value >>= 4) out[i] = "0123456789abcdef"[value & 15];
  return out;
}

// Writes the pieces of an answer as text. Reasoning stands between <think> and </think>, dimmed on
// a terminal.
class TextPrinter {
 public:
  TextPrinter(Output& out, ReasoningMode mode, bool escape)
      : out_(out), mode_(mode), escape_(escape), dim_(has_colour(out.fd())) {}

  void piece(const AnswerPiece& p) {
    if (p.text.empty()) return;
    any_ = true;
    if (!p.reasoning) {
      if (in_reasoning_) reasoning("\n</think>\n\n");
      in_reasoning_ = false;
      return write(p.text);
    }
    if (mode_ == ReasoningMode::kShow && !in_reasoning_) reasoning("<think>\n");
    in_reasoning_ = mode_ == ReasoningMode::kShow;
    reasoning(p.text);
  }

  // The answer ends with a line break, unless there is none because the model failed.
  void end(FinishReason finish) {
    const bool nothing = finish == FinishReason::kError && !any_;
    if (!at_line_start_ && !nothing) out_.write("\n");
    if (errors_used_) print_line("");
  }

 private:
  void reasoning(const std::string& text) {
    if (mode_ == ReasoningMode::kHide) return;
    if (mode_ == ReasoningMode::kSeparate) {
      errors_used_ = true;
      return print(text);
    }
    at_line_start_ = text.back() == '\n';
    const std::string shown = escape_ ? visible(text) : text;
    out_.write(dim_ ? dimmed(shown) : shown);
  }

  void write(const std::string& text) {
    at_line_start_ = text.back() == '\n';
    out_.write(escape_ ? visible(text) : text);
  }

  Output& out_;
  ReasoningMode mode_;
  bool escape_, dim_;
  bool any_ = false, in_reasoning_ = false, at_line_start_ = false, errors_used_ = false;
};

void show_prompt(const Options& options, const Prompt& prompt) {
  Output out(options.output);
  if (options.format == Format::kJson) {
    out.write(prompt_json(prompt.text, prompt.ids) + "\n");
  } else {
    std::string ids;
    for (const TokenId id : prompt.ids) ids += (ids.empty() ? "" : ",") + std::to_string(id);
    out.write((is_terminal(out.fd()) ? visible(prompt.text) : prompt.text) + "\n" + ids + "\n");
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

Answer print_text(const Options& options, Engine& engine, const Tokenizer& tokenizer,
                  const AnswerRequest& request) {
  Output out(options.output);
  TextPrinter printer(out, options.reasoning.value_or(ReasoningMode::kShow),
                      is_terminal(out.fd()) && !options.raw);
  Answer answer = run_to_end(engine, &tokenizer, request, [&](const AnswerPiece& piece) {
    printer.piece(piece);
    return stop_signal() == 0;
  });
  acknowledge_stop();
  printer.end(answer.finish);
  out.close();
  return answer;
}

Answer print_json(const Options& options, Engine& engine, const Tokenizer* tokenizer,
                  const AnswerRequest& request, bool chat) {
  Output out(options.output);
  Answer answer =
      run_to_end(engine, tokenizer, request, [](const AnswerPiece&) { return stop_signal() == 0; });
  acknowledge_stop();
  const ReasoningMode mode = options.reasoning.value_or(ReasoningMode::kSeparate);
  Answer shown = answer;
  if (mode == ReasoningMode::kHide) shown.reasoning.clear();
  out.write(answer_json({shown}, request.request.prompt,
                        {.model = model_name(engine.info().directory),
                         .id = (chat ? "chatcmpl-" : "cmpl-") + hex(random_bits()),
                         .chat = chat,
                         .separate_reasoning = mode != ReasoningMode::kShow}) +
            "\n");
  out.close();
  return answer;
}

// What is said after the answer, and the exit code.
int conclude(const Options& options, const ModelInfo& info, const Answer& answer) {
  if (answer.finish == FinishReason::kError)
    throw Error(ErrorKind::kNonFinite,
                "a logit was not finite after " + std::to_string(answer.ids.size()) +
                    " tokens of the answer: the weights are damaged, or this is a bug");
  if (answer.finish == FinishReason::kLength && options.predict < 0)
    notes(options.quiet)("the answer ends where the context of " + std::to_string(info.ctx_size) +
                         " tokens does (-c)");
  if (options.timings && !options.quiet) print_line(timing_line(answer, info.load_seconds));
  return stop_signal() == 0 ? 0 : 128 + stop_signal();
}

}  // namespace

int run_one_shot(const Options& options) {
  SamplingParams early;  // what can be refused before the model is looked at
  options.sampling.apply_to(early);
  check_sampling_params(early, int64_t{1} << 31);
  const std::string dir = find_model_dir(options.model, notes(options.quiet));
  PromptInput input = read_prompt(options);
  const bool needs_text = !input.ids || (options.format == Format::kText && !options.show_prompt);
  const std::unique_ptr<Tokenizer> tokenizer =
      needs_text ? require_tokenizer(dir, options.quiet) : load_tokenizer(dir, options.quiet);
  const Prompt prompt = make_prompt(options, dir, tokenizer.get(), std::move(input));
  if (options.show_prompt) {
    show_prompt(options, prompt);
    return 0;
  }

  const auto engine = Engine::create({.model_dir = dir,
                                      .device = options.device,
                                      .threads = options.threads,
                                      .cpu_level = options.cpu_level,
                                      .cuda_arch = options.cuda_arch,
                                      .ctx_size = options.ctx_size,
                                      .chunk = options.chunk,
                                      .cache_type = options.cache_type,
                                      .tokenizer = tokenizer.get(),
                                      .warn = warnings(options.quiet)});
  // Who watches wants to know why it is slow; a script's stderr stays as it is.
  if (!engine->info().device_note.empty() && (options.verbose || is_terminal(STDERR_FILENO)))
    notes(options.quiet)(engine->info().device_note + " (--device cpu: without this note)");
  const AnswerRequest request = make_request(options, prompt, engine->info());
  if (options.verbose) {
    print_line("seed " + std::to_string(request.request.sampling.seed));
    print_line(engine->plan().summary());
  }
  const Answer answer = options.format == Format::kJson
                            ? print_json(options, *engine, tokenizer.get(), request, prompt.chat)
                            : print_text(options, *engine, *tokenizer, request);
  return conclude(options, engine->info(), answer);
}

}  // namespace dsr
