// bench: rows of prompts and answers, by depth and batch size.
#include "deepseek_run/bench.h"

#include <algorithm>
#include <fstream>
#include <locale>
#include <optional>
#include <sstream>

#include "app/bench_compare.h"
#include "app/bench_report.h"
#include "app/bench_work.h"
#include "app/machine.h"
#include "base/error.h"
#include "base/rng.h"
#include "base/timer.h"
#include "io/checkpoint.h"
#include "model/card.h"
#include "model/declared_source.h"

namespace dsr {
namespace {

struct Case {
  bool decode;
  int64_t n, depth, batch;
};

int64_t largest(const std::vector<int64_t>& v) {
  return v.empty() ? 0 : *std::max_element(v.begin(), v.end());
}

std::vector<Case> cases_of(const BenchOptions& o) {
  std::vector<Case> out;
  for (const bool decode : {false, true})
    for (const int64_t n : decode ? o.generates : o.prompts)
      for (const int64_t depth : o.depths)
        for (const int64_t batch : o.batches)
          if (n > 0) out.push_back({decode, n, depth, batch});
  return out;
}

double number_of(const std::string& path, const std::string& key) {
  std::istringstream in(field_of(path, key));
  in.imbue(std::locale::classic());
  double value = 0;
  in >> value;
  return value;
}

double clock_mhz() { return number_of("/proc/cpuinfo", "cpu MHz"); }

// The most memory the process has had since reset_peak_memory, or ever where Linux refuses that.
int64_t peak_memory_bytes() {
  return static_cast<int64_t>(number_of("/proc/self/status", "VmHWM")) * 1024;
}
void reset_peak_memory() { std::ofstream("/proc/self/clear_refs") << "5"; }

class Bench {
 public:
  Bench(const BenchOptions& options, Engine& engine) : o_(options), engine_(engine) {}

  // Seconds from the first step to the last; nullopt where it was ended.
  std::optional<double> run(const Case& c) {
    for (int64_t s = 0; s < c.batch; ++s) submit(c);
    const Timer timer;
    while (!engine_.idle()) {
      if (o_.keep_going && !o_.keep_going()) return std::nullopt;
      for (const StepOutput& out : engine_.step())
        if (out.finish == FinishReason::kError)
          fail(ErrorKind::kNonFinite, "bench: a logit was not finite");
    }
    return timer.seconds();
  }

 private:
  // A prompt of the row's length, or the one token that a decode step starts from.
  void submit(const Case& c) {
    Request r;
    const int64_t tokens = c.depth + (c.decode ? 1 : c.n);
    const auto vocabulary = static_cast<uint32_t>(engine_.info().vocab_size);
    for (int64_t i = 0; i < tokens; ++i)
      r.prompt.push_back(static_cast<TokenId>(ids_.next_u32() % vocabulary));
    r.assumed_tokens = c.depth;
    r.max_new_tokens = c.decode ? c.n : 1;
    r.ignore_eos = true;
    r.sampling.loop_guard = false;  // random weights have nothing to say
    r.sampling.temperature = 0;
    engine_.submit(std::move(r));
  }

  const BenchOptions& o_;
  Engine& engine_;
  PhiloxStream ids_{0, 0};
};

BenchWork work_of(const EngineOptions& o, int64_t kv_bytes_per_token) {
  if (o.random) {
    const ModelConfig c = card_model(o.random->card, o.random->weights, o.random->layers, {});
    return bench_work(c, DeclaredSource(c), kv_bytes_per_token);
  }
  const Checkpoint checkpoint = Checkpoint::open(o.model_dir, {});
  return bench_work(parse_config(checkpoint.config(), {}), checkpoint, kv_bytes_per_token);
}

std::optional<BenchRow> measure(const BenchOptions& o, Bench& bench, const BenchWork& work,
                                const Case& c) {
  BenchRow row{.test = str(c.decode ? "tg" : "pp", c.n),
               .decode = c.decode,
               .batch = c.batch,
               .depth = c.depth,
               .n = c.n};
  reset_peak_memory();
  for (int64_t i = 0; i < o.warmup + o.repetitions; ++i) {
    const std::optional<double> seconds = bench.run(c);
    if (!seconds) return std::nullopt;
    if (i >= o.warmup) row.seconds.push_back(*seconds);
  }
  row.peak_memory_bytes = peak_memory_bytes();
  // Step i of n reads depth + i keys, its own among them.
  const double context = static_cast<double>(c.depth) + static_cast<double>(c.n + 1) / 2;
  if (c.decode)
    row.bytes_per_step = decode_bytes(work, c.batch, context);
  else
    row.flop = prefill_flop(work, c.batch, c.n, c.depth);
  return row;
}

}  // namespace

BenchReport run_bench(const BenchOptions& o) {
  const std::vector<Case> cases = cases_of(o);
  if (cases.empty()) fail_usage("bench has nothing to measure: -p and -n are 0");
  if (o.repetitions < 1 || o.warmup < 0)
    fail_usage("bench needs at least one repetition, and no negative number of warm-up runs");
  std::vector<BaseRow> base;
  if (!o.compare.empty()) base = read_base(o.compare);
  EngineOptions options = o.engine;
  options.max_seqs = largest(o.batches);
  options.ctx_size = largest(o.depths) + std::max(largest(o.prompts), largest(o.generates)) + 1;
  // Every sequence at its longest: none may wait for the blocks of another.
  options.cache_tokens = options.max_seqs * round_up(options.ctx_size, kPageTokens);
  const std::unique_ptr<Engine> engine = Engine::create(options);
  engine->fill_cache();

  BenchFindings f;
  f.model = engine->info().directory;
  f.architecture = engine->info().architecture;
  f.device = engine->info().device;
  f.load_seconds = engine->info().load_seconds;
  f.load_mode = engine->info().load_mode;
  f.start_mhz = clock_mhz();
  f.peaks = engine->measure_peaks();
  f.processor = f.peaks.gpu.empty() ? field_of("/proc/cpuinfo", "model name") : f.peaks.gpu;
  const BenchWork work = work_of(options, engine->plan().kv_bytes_per_token);
  f.weights = name(released_format(work.config));
  f.cache_type = o.engine.cache_type;
  Bench bench(o, *engine);
  for (const Case& c : cases) {
    std::optional<BenchRow> row = measure(o, bench, work, c);
    if (!row) return {};
    f.rows.push_back(*std::move(row));
  }
  f.end_mhz = clock_mhz();
  BenchReport out = {.text = bench_text(f, o.format), .complete = true};
  if (o.compare.empty()) return out;
  BenchComparison comparison = compare(base, f.rows);
  out.comparison = std::move(comparison.text);
  out.has_regression = comparison.has_regression;
  return out;
}

}  // namespace dsr
