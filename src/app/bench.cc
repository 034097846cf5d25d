// bench: rows of prompts and answers, by depth and batch size.
#include "deepseek_run/bench.h"

#include <algorithm>
#include <optional>

#include "app/bench_compare.h"
#include "app/bench_memory.h"
#include "app/bench_report.h"
#include "app/bench_serve.h"
#include "app/bench_work.h"
#include "app/machine.h"
#include "base/error.h"
#include "base/rng.h"
#include "base/timer.h"
#include "engine/device_choice.h"
#include "io/checkpoint.h"
#include "model/card.h"
#include "model/declared_source.h"

namespace dsr {
namespace {

constexpr int64_t kServedAtATime = 32;
constexpr int64_t kServedRequests = 64;
// What a repetition reads at least to have memory read beside it: as much as that reads itself,
// which empties the caches.
constexpr double kProbedBytes = 1 << 30;

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
  Engine& engine() const { return engine_; }

 private:
  // A prompt of the row's length, or the one token that a decode step starts from.
  void submit(const Case& c) {
    Request r = random_request(ids_, engine_.info().vocab_size, c.depth + (c.decode ? 1 : c.n),
                               c.decode ? c.n : 1);
    r.assumed_tokens = c.depth;
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
                                const Case& c, bool on_host) {
  BenchRow row{.test = str(c.decode ? "tg" : "pp", c.n),
               .decode = c.decode,
               .batch = c.batch,
               .depth = c.depth,
               .n = c.n};
  // Step i of n reads depth + i keys, its own among them.
  const double context = static_cast<double>(c.depth) + static_cast<double>(c.n + 1) / 2;
  if (c.decode)
    row.bytes_per_step = decode_bytes(work, c.batch, context);
  else
    row.flop = prefill_flop(work, c.batch, c.n, c.depth);
  const bool probes = on_host && row.bytes_per_step * static_cast<double>(c.n) > kProbedBytes;
  const auto probe = [&] {
    if (probes) row.read_gb_per_s.push_back(bench.engine().measure_read_gb_per_s());
  };
  reset_peak_memory();
  for (int64_t i = 0; i < o.warmup + o.repetitions; ++i) {
    if (i == o.warmup) probe();
    const std::optional<double> seconds = bench.run(c);
    if (!seconds) return std::nullopt;
    if (i < o.warmup) continue;
    row.seconds.push_back(*seconds);
    probe();
  }
  row.peak_memory_bytes = taken_memory_bytes(bench.engine());
  return row;
}

std::optional<std::vector<BenchRow>> measure_rows(const BenchOptions& o, Engine& engine,
                                                  const BenchWork& work, bool on_host) {
  engine.fill_cache();
  Bench bench(o, engine);
  std::vector<BenchRow> out;
  for (const Case& c : cases_of(o)) {
    std::optional<BenchRow> row = measure(o, bench, work, c, on_host);
    if (!row) return std::nullopt;
    out.push_back(*std::move(row));
  }
  return out;
}

std::vector<ServeCase> serve_cases_of(const BenchOptions& o) {
  std::vector<ServeCase> out;
  for (const double rate : o.serve_rates)
    for (const int64_t prompt : o.prompts)
      for (const int64_t n : o.generates)
        for (const int64_t batch : o.batches)
          out.push_back({rate, o.serve_requests, prompt, n, batch});
  return out;
}

std::optional<std::vector<ServeRow>> measure_served(const BenchOptions& o, Engine& engine) {
  PhiloxStream ids(0, 0);
  std::vector<ServeRow> out;
  for (const ServeCase& c : serve_cases_of(o)) {
    ServeRow& row = out.emplace_back(ServeRow{.test = serve_test(c), .serve = c});
    reset_peak_memory();
    for (int64_t i = 0; i < o.warmup + o.repetitions; ++i) {
      // The same arrivals each time: what differs then is the machine.
      auto requests = serve(engine, {c, /*seed=*/0, ids, o.keep_going});
      if (!requests) return std::nullopt;
      if (i >= o.warmup) row.repetitions.push_back(*std::move(requests));
    }
    row.peak_memory_bytes = taken_memory_bytes(engine);
  }
  return out;
}

void check(const BenchOptions& o) {
  if (o.repetitions < 1 || o.warmup < 0)
    fail_usage("bench needs at least one repetition, and no negative number of warm-up runs");
  if (o.serve_rates.empty()) {
    if (o.serve_requests != 0) fail_usage("--requests is of --serve-like");
    if (cases_of(o).empty()) fail_usage("bench has nothing to measure: -p and -n are 0");
    return;
  }
  if (o.depths != std::vector<int64_t>{0})
    fail_usage("--serve-like takes no -d: requests begin with nothing in the cache");
  if (o.serve_requests < 1) fail_usage("--serve-like needs at least one request");
  for (const ServeCase& c : serve_cases_of(o)) {
    if (!(c.rate > 0)) fail_usage("--serve-like takes rates above 0");
    if (c.prompt < 1 || c.n < 2)
      fail_usage("--serve-like needs prompts (-p) of at least one token and answers (-n) of two");
  }
}

// The largest of the rows, every sequence at its longest: none may wait for the blocks of another.
EngineOptions engine_options(const BenchOptions& o) {
  EngineOptions out = o.engine;
  out.max_seqs = largest(o.batches);
  out.ctx_size = o.serve_rates.empty()
                     ? largest(o.depths) + std::max(largest(o.prompts), largest(o.generates)) + 1
                     : largest(o.prompts) + largest(o.generates);
  out.cache_tokens = out.max_seqs * round_up(out.ctx_size, kPageTokens);
  return out;
}

BenchFindings findings_of(const BenchOptions& o, Engine& engine, const BenchWork& work) {
  const ModelInfo& info = engine.info();
  const DevicePeaks peaks = engine.measure_peaks();
  return {.model = info.directory,
          .architecture = info.architecture,
          .weights = name(released_format(work.config)),
          .device = info.device,
          .cache_type =
              name(cache_type_of(o.engine.cache_type, choose_device(o.engine.device).backend)),
          .load_mode = info.load_mode,
          .processor = peaks.gpu.empty() ? field_of("/proc/cpuinfo", "model name") : peaks.gpu,
          .start_mhz = clock_mhz(),
          .load_seconds = info.load_seconds,
          .planned_memory_bytes = engine.plan().total_bytes(),
          .peaks = peaks,
          .rows = {}};
}

// The ceilings once more: what else ran during one measurement only took away.
DevicePeaks better(DevicePeaks before, const DevicePeaks& after) {
  before.gb_per_s = std::max(before.gb_per_s, after.gb_per_s);
  before.tflop_per_s = std::max(before.tflop_per_s, after.tflop_per_s);
  return before;
}

BenchReport run_memory_table(const BenchOptions& o) {
  if (!o.compare.empty()) fail_usage("--memory-table has nothing to --compare");
  if (!o.serve_rates.empty() || o.serve_requests != 0)
    fail_usage("--memory-table serves no requests: it takes no --serve-like and no --requests");
  const std::optional<MemoryTable> table = memory_table(o);
  if (!table) return {};
  return {.text = memory_table_text(*table, o.format), .complete = true};
}

}  // namespace

BenchReport run_bench(const BenchOptions& options) {
  if (options.memory_table) return run_memory_table(options);
  BenchOptions o = options;
  if (o.batches.empty()) o.batches = {o.serve_rates.empty() ? 1 : kServedAtATime};
  if (o.serve_requests == 0 && !o.serve_rates.empty()) o.serve_requests = kServedRequests;
  check(o);
  BenchBase base;
  if (!o.compare.empty()) base = read_base(o.compare);
  const EngineOptions wanted = engine_options(o);
  const double start_seconds = process_seconds();
  const std::unique_ptr<Engine> engine = Engine::create(wanted);
  const BenchWork work = work_of(wanted, engine->plan().kv_bytes_per_token);
  BenchFindings f = findings_of(o, *engine, work);
  f.start_seconds = start_seconds;
  std::vector<ComparedRow> rows;
  if (o.serve_rates.empty()) {
    auto measured = measure_rows(o, *engine, work, f.peaks.threads > 0);
    if (!measured) return {};
    f.rows = *std::move(measured);
    for (const BenchRow& r : f.rows) {
      rows.push_back(compared(r));
      for (const double read : r.read_gb_per_s) f.peaks.gb_per_s = std::max(f.peaks.gb_per_s, read);
    }
  } else {
    auto measured = measure_served(o, *engine);
    if (!measured) return {};
    f.serve_rows = *std::move(measured);
    for (const ServeRow& r : f.serve_rows) rows.push_back(compared(r));
  }
  f.end_mhz = clock_mhz();
  f.peaks = better(f.peaks, engine->measure_peaks());
  BenchReport out = {.text = bench_text(f, o.format), .complete = true};
  if (o.compare.empty()) return out;
  BenchComparison comparison = compare(base.rows, rows);
  out.comparison = unlike(base.report, bench_head_json(f)) + comparison.text;
  out.has_regression = comparison.has_regression;
  return out;
}

}  // namespace dsr
