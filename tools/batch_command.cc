// A file of prompts.
#include <unistd.h>

#include <cmath>

#include "deepseek_run/batch.h"
#include "deepseek_run/error.h"
#include "tools/answer_setup.h"
#include "tools/commands.h"
#include "tools/io.h"
#include "tools/model_dir.h"
#include "tools/prompt.h"
#include "tools/signals.h"
#include "tools/terminal.h"

namespace dsr {
namespace {

constexpr int kSomeFailed = 7;
constexpr double kLineSeconds = 30;  // where standard error is not a terminal

std::string duration(double seconds) {
  const auto s = static_cast<int64_t>(std::lround(seconds));
  const auto two = [](int64_t n) { return (n < 10 ? "0" : "") + std::to_string(n); };
  if (s < 3600) return std::to_string(s / 60) + ":" + two(s % 60);
  return std::to_string(s / 3600) + ":" + two(s / 60 % 60) + ":" + two(s % 60);
}

// "120/300 done, 2 failed | 1043 tok/s | 0:42 left"
std::string progress_text(const BatchProgress& p) {
  std::string out = std::to_string(p.done) + "/" + std::to_string(p.total) + " done";
  if (p.failed > 0) out += ", " + std::to_string(p.failed) + " failed";
  if (p.seconds > 0)
    out +=
        " | " + std::to_string(std::lround(static_cast<double>(p.tokens) / p.seconds)) + " tok/s";
  if (p.done < p.total && p.eta_seconds > 0) out += " | " + duration(p.eta_seconds) + " left";
  return out;
}

// One line that is written over again on a terminal; elsewhere a line now and then.
class ProgressPrinter {
 public:
  explicit ProgressPrinter(bool quiet) : quiet_(quiet), terminal_(is_terminal(STDERR_FILENO)) {}

  void show(const BatchProgress& p) {
    if (quiet_) return;
    if (terminal_) {
      print_over(progress_text(p));
      shown_ = true;
    } else if (p.seconds >= next_line_) {
      next_line_ = p.seconds + kLineSeconds;
      if (p.seconds >= kLineSeconds) print_line(progress_text(p));
    }
  }

  void end(const BatchProgress& p, const EngineStats& stats) {
    if (quiet_) return;
    if (shown_) print_over("");
    std::string line = progress_text(p);
    if (p.tokens > 0) line += " | " + duration(p.seconds);
    if (stats.prompt_tokens_reused > 0)
      line += " | " + std::to_string(stats.prompt_tokens_reused) + " of " +
              std::to_string(stats.prompt_tokens_reused + stats.prompt_tokens_computed) +
              " prompt tokens were in the cache";
    print_line(line);
  }

 private:
  bool quiet_, terminal_;
  bool shown_ = false;
  double next_line_ = kLineSeconds;
};

}  // namespace

int run_batch(const Options& options) {
  BatchOptions batch = options.batch;
  if (batch.input.empty()) throw Error(ErrorKind::kUsage, "no input file: batch IN -o OUT");
  if (batch.input == "-")
    throw Error(ErrorKind::kUsage,
                "a batch needs a file to read, not standard input: it is read again when an "
                "unfinished batch is continued");
  if (batch.output.empty() || batch.output == "-")
    throw Error(ErrorKind::kUsage, "a batch needs a file to write: -o OUT");
  const std::string dir = find_model_dir(options.model, notes(options.quiet));
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(dir, options.quiet);
  batch.engine = engine_options(options, dir, tokenizer.get());
  batch.engine.max_seqs = options.max_seqs;  // 0: what the records need
  batch.model_name = model_name(dir);
  batch.sampling = [&](SamplingParams& p) { options.sampling.apply_to(p); };
  batch.seed = options.sampling.seed.value_or(0);
  batch.max_new_tokens = options.predict;
  batch.stop = options.stop;
  batch.chat_format = options.chat_format;
  batch.raw = options.raw;
  batch.system = options.system.value_or("");
  batch.thinking = options.think;
  ProgressPrinter progress(options.quiet);
  batch.on_progress = [&](const BatchProgress& p) { progress.show(p); };
  batch.keep_going = [] { return stop_signal() == 0; };
  batch.note = notes(options.quiet);
  const BatchResult result = run_batch(batch);
  if (!result.complete) acknowledge_stop();
  progress.end(result.progress, result.stats);
  if (!result.complete) return 128 + stop_signal();
  return result.progress.failed > 0 ? kSomeFailed : 0;
}

}  // namespace dsr
