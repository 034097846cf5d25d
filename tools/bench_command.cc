#include "deepseek_run/bench.h"
#include "deepseek_run/error.h"
#include "tools/answer_setup.h"
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
  bench.engine = engine_options(options, "", nullptr);
  const bool table_of_card = bench.memory_table && !options.card.empty();
  if (options.random_weights == options.card.empty() && !table_of_card)
    throw Error(ErrorKind::kUsage, "--random-weights and --card FILE go together");
  if (!options.gpus.empty() && !bench.memory_table)
    throw Error(ErrorKind::kUsage, "--gpus is of --memory-table: bench measures this machine");
  if (options.random_weights && !options.model.empty())
    throw Error(ErrorKind::kUsage, "bench takes -m or --random-weights, not both");
  bench.gpus = options.gpus;
  bench.planned_only = !options.random_weights && !options.card.empty();
  if (!options.card.empty())
    bench.engine.random =
        RandomModel{.card = options.card, .weights = options.weights, .layers = options.layers};
  else if (!options.weights.empty() || options.layers > 0)
    throw Error(ErrorKind::kUsage, "--quant and --layers are of --random-weights");
  else
    bench.engine.model_dir = find_model_dir(options.model, notes(options.quiet));
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
