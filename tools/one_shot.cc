// One prompt, one answer.
#include <unistd.h>

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

Answer print_text(const Options& options, Engine& engine, const Tokenizer& tokenizer,
                  const AnswerRequest& request) {
  Output out(options.output);
  TextPrinter printer(out, options.reasoning.value_or(ReasoningMode::kShow),
                      escape_for(out.fd(), options.raw, options.strict_tty));
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
  const std::string json = answer_json({shown}, request.request.prompt,
                                       {.model = model_name(engine.info().directory),
                                        .id = (chat ? "chatcmpl-" : "cmpl-") + hex(random_bits()),
                                        .chat = chat,
                                        .separate_reasoning = mode != ReasoningMode::kShow});
  out.write(visible_json(json) + "\n");
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
  check_sampling(options);
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
  fit(engine->info().ctx_size);
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
