#include <unistd.h>

#include "deepseek_run/error.h"
#include "deepseek_run/logits.h"
#include "tools/answer_setup.h"
#include "tools/commands.h"
#include "tools/io.h"
#include "tools/model_dir.h"
#include "tools/prompt.h"
#include "tools/terminal.h"

namespace dsr {

int run_logits(const Options& options) {
  if (options.output.empty())
    throw Error(ErrorKind::kUsage, "logits needs -o FILE: the output is binary");
  if (options.output == "-" && is_terminal(STDOUT_FILENO))
    throw Error(ErrorKind::kUsage, "logits are binary and not written to a terminal: -o FILE");
  const std::string dir = find_model_dir(options.model, notes(options.quiet));
  PromptInput input = read_prompt(options);
  const std::unique_ptr<Tokenizer> tokenizer =
      input.ids ? load_tokenizer(dir, options.quiet) : require_tokenizer(dir, options.quiet);
  const Prompt prompt = make_raw_prompt(tokenizer.get(), std::move(input), options.bytes);
  const auto engine = Engine::create(engine_options(options, dir, tokenizer.get()));
  write_logits_npy(*engine, prompt.ids, options.output);
  return 0;
}

}  // namespace dsr
