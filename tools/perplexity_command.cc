// How well a model predicts a text.
#include "deepseek_run/perplexity.h"

#include <optional>

#include "tools/answer_setup.h"
#include "tools/commands.h"
#include "tools/io.h"
#include "tools/model_dir.h"
#include "tools/prompt.h"
#include "tools/signals.h"

namespace dsr {

int run_perplexity(const Options& options) {
  const std::string dir = find_model_dir(options.model, notes(options.quiet));
  PromptInput input = read_prompt(options);
  const auto text_bytes = static_cast<int64_t>(input.text.size());
  const std::unique_ptr<Tokenizer> tokenizer =
      input.ids ? load_tokenizer(dir, options.quiet) : require_tokenizer(dir, options.quiet);
  const Prompt prompt = make_raw_prompt(tokenizer.get(), std::move(input), options.bytes);
  PerplexityOptions o;
  o.engine = engine_options(options, dir, tokenizer.get());
  o.stride = options.stride;
  o.keep_going = [] { return stop_signal() == 0; };
  std::optional<Output> tokens;
  if (!options.output.empty()) {
    tokens.emplace(options.output);
    o.on_token = [&](const PredictedToken& t) {
      tokens->write(predicted_token_json(t, tokenizer.get()));
    };
  }
  const Perplexity p = perplexity(o, prompt.ids);
  if (tokens) tokens->close();
  if (!p.complete) return 128 + stop_signal();
  Output("").write(options.format == Format::kJson ? perplexity_json(p, text_bytes)
                                                   : perplexity_text(p, text_bytes));
  return 0;
}

}  // namespace dsr
