#include "deepseek_run/bench.h"
#include "deepseek_run/error.h"
#include "tools/commands.h"
#include "tools/io.h"
#include "tools/model_dir.h"
#include "tools/signals.h"

namespace dsr {
namespace {

constexpr int kRegression = 9;

}  // namespace

int run_bench(const Options& options) {
  BenchOptions bench = options.bench;
  EngineOptions& engine = bench.engine;
  engine.device = options.device;
  engine.threads = options.threads;
  engine.cpu_level = options.cpu_level;
  engine.cpu_math = options.cpu_math;
  engine.cuda_arch = options.cuda_arch;
  engine.load_mode = options.load_mode;
  engine.chunk = options.chunk;
  engine.cache_type = options.cache_type;
  engine.warn = warnings(options.quiet);
  if (options.random_weights == options.card.empty())
    throw Error(ErrorKind::kUsage, "--random-weights and --card FILE go together");
  if (options.random_weights && !options.model.empty())
    throw Error(ErrorKind::kUsage, "bench takes -m or --random-weights, not both");
  if (options.random_weights)
    engine.random =
        RandomModel{.card = options.card, .weights = options.weights, .layers = options.layers};
  else if (!options.weights.empty() || options.layers > 0)
    throw Error(ErrorKind::kUsage, "--quant and --layers are of --random-weights");
  else
    engine.model_dir = find_model_dir(options.model, notes(options.quiet));
  bench.keep_going = [] { return stop_signal() == 0; };
  const BenchReport report = run_bench(bench);
  if (!report.complete) return 128 + stop_signal();
  Output out(options.output);
  out.write(report.text);
  out.close();
  print(report.comparison);
  return report.has_regression ? kRegression : 0;
}

}  // namespace dsr
