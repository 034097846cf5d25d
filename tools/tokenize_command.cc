#include "deepseek_run/tokenize.h"

#include "deepseek_run/error.h"
#include "tools/commands.h"
#include "tools/io.h"
#include "tools/model_dir.h"
#include "tools/prompt.h"
#include "tools/signals.h"
#include "tools/terminal.h"

namespace dsr {
namespace {

constexpr int kSomeFailed = 7;
constexpr size_t kFlushBytes = size_t{1} << 16;

// Line by line; a bad line becomes {"error"} and the rest proceed. Whoever feeds lines through a
// pipe gets each answer before the next line is asked for. A request to stop is heard between two
// lines: what was written ends with a line break.
int tokenize_lines(const Options& options, const Tokenizer& tokenizer) {
  LineReader in(options.file.value_or("-"));
  Output out("");
  std::string line, pending;
  bool failed = false;
  const auto flush = [&] {
    const WholeRecord whole;
    out.write(pending);
    pending.clear();
  };
  while (stop_signal() == 0 && in.next(line)) {
    const TokenizedLine result = tokenize_json_line(tokenizer, line, options.add_bos);
    failed = failed || !result.ok;
    pending += visible_json(result.json) + "\n";
    if (in.must_wait() || pending.size() >= kFlushBytes) flush();
  }
  flush();
  if (stop_signal() != 0) return 128 + stop_signal();
  return failed ? kSomeFailed : 0;
}

}  // namespace

int run_tokenize(const Options& options) {
  const std::string dir = find_model_dir(options.model, notes(options.quiet));
  if (options.jsonl && (options.count || options.format == Format::kJson || options.prompt))
    throw Error(
        ErrorKind::kUsage,
        "--jsonl reads lines from -f or standard input and excludes -p, --count and --json");
  if (options.count && options.format == Format::kJson)
    throw Error(ErrorKind::kUsage,
                "--count and --json exclude each other: the count is part of --json");
  const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::load(dir, warnings(options.quiet));
  if (options.jsonl) return tokenize_lines(options, *tokenizer);

  const std::vector<TokenId> ids = tokenize(*tokenizer, read_prompt(options).text, options.add_bos);
  Output out("");
  if (options.count)
    out.write(std::to_string(ids.size()) + "\n");
  else if (options.format == Format::kJson)
    out.write(visible_json(tokens_json(*tokenizer, ids)) + "\n");
  else
    out.write(tokens_text(*tokenizer, ids));
  return 0;
}

}  // namespace dsr
