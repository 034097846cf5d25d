#include "app/bench_memory.h"

#include <algorithm>
#include <memory>

#include "app/bench_serve.h"
#include "app/format.h"
#include "app/gpu_plan.h"
#include "app/machine.h"
#include "base/error.h"
#include "base/json.h"
#include "engine/planned_model.h"
#include "model/card.h"
#include "model/declared_source.h"

namespace dsr {
namespace {

class Table {
 public:
  explicit Table(const BenchOptions& options) : o_(options), model_(options.engine) {
    const ModelConfig& c = model_.config();
    const bool named = !o_.gpus.empty();
    const Backend backend = named ? Backend::kCuda : model_.device().backend;
    out_ = {.model = model_.checkpoint() ? o_.engine.model_dir : o_.engine.random->card,
            .architecture = c.architecture,
            .weights = name(released_format(c)),
            .cache_type = name(cache_type_of(o_.engine.cache_type, backend)),
            .device = "",
            .batches = o_.batches.empty() ? kTableBatches : o_.batches,
            .lengths = kTableLengths};
    if (named) gpus_ = parse_gpus(o_.gpus);
  }

  std::optional<MemoryTable> run() {
    for (const int64_t batch : out_.batches) {
      auto& row = out_.cells.emplace_back();
      for (const int64_t length : out_.lengths) {
        if (o_.keep_going && !o_.keep_going()) return std::nullopt;
        row.emplace_back();
        if (length > model_.config().max_position_embeddings) continue;
        row.back() = gpus_.gpu != nullptr ? on_named_gpus(batch, length) : here(batch, length);
        if (stopped_) return std::nullopt;
      }
    }
    return std::move(out_);
  }

 private:
  MemoryCell on_named_gpus(int64_t batch, int64_t length) {
    const DeclaredSource shapes =
        model_.checkpoint() ? DeclaredSource(static_cast<const WeightSource&>(*model_.checkpoint()))
                            : DeclaredSource(model_.config());
    const SizesRequest request = {cache_type_of(o_.engine.cache_type, Backend::kCuda), length,
                                  batch, chunk_of(o_.engine.chunk, Backend::kCuda)};
    const GpuPlan plan =
        plan_gpus(model_sizes(model_.config(), shapes, request), gpus_, length, batch);
    out_.device = str(gpus_.count, " x ", gpus_.gpu->name);
    out_.limit_bytes = plan.limit_bytes();
    return {.planned_bytes = plan.total_bytes(), .fits = plan.fits()};
  }

  MemoryCell here(int64_t batch, int64_t length) {
    EngineOptions e = o_.engine;
    e.max_seqs = batch;
    e.chunk = chunk_of(e.chunk, model_.device().backend);
    e.ctx_size = length;
    e.cache_tokens = batch * round_up(length, kPageTokens);
    const MemoryPlan plan = model_.plan(e).plan;
    out_.device = plan.device;
    out_.limit_bytes = std::max(out_.limit_bytes, plan.available_bytes);
    MemoryCell cell{.planned_bytes = plan.total_bytes(), .fits = plan.fits()};
    if (cell.fits && !o_.planned_only) cell.measured_bytes = measure(e);
    return cell;
  }

  // Every sequence is at its length but for the first, which computes a chunk of prompt in the same
  // step: the largest there is.
  int64_t measure(const EngineOptions& e) {
    give_memory_back();
    reset_peak_memory();
    const auto engine = Engine::create(e);
    engine->fill_cache();
    for (int64_t s = 0; s < e.max_seqs; ++s) {
      const int64_t prompt = e.ctx_size - 1;
      Request r = random_request(ids_, engine->info().vocab_size, prompt, 1);
      r.assumed_tokens = prompt - (s == 0 ? std::min(e.chunk, prompt) : 1);
      engine->submit(std::move(r));
    }
    while (!engine->idle() && !stopped_) {
      engine->step();
      stopped_ = o_.keep_going && !o_.keep_going();
    }
    return taken_memory_bytes(*engine);
  }

  const BenchOptions& o_;
  PlannedModel model_;
  GpuSet gpus_ = {};
  MemoryTable out_;
  PhiloxStream ids_{0, 0};
  bool stopped_ = false;
};

// A large number of bytes with two digits, as the README has them.
std::string size_text(int64_t bytes) {
  constexpr double kGB = 1e9, kMB = 1e6;
  const auto b = static_cast<double>(bytes);
  return b >= kGB ? fixed(b / kGB, 2) + " GB" : fixed(b / kMB, 2) + " MB";
}

std::string cell_text(const std::optional<MemoryCell>& cell) {
  if (!cell) return "-";
  if (!cell->fits) return "OOM";
  const std::string planned = size_text(cell->planned_bytes);
  return cell->measured_bytes ? planned + " / " + size_text(*cell->measured_bytes) : planned;
}

std::string markdown(const MemoryTable& t) {
  bool measured = false;
  std::vector<std::vector<std::string>> rows = {{"batch size"}};
  for (const int64_t length : t.lengths) rows[0].push_back(str(length));
  for (size_t b = 0; b < t.batches.size(); ++b) {
    rows.push_back({str(t.batches[b])});
    for (const auto& cell : t.cells[b]) {
      rows.back().push_back(cell_text(cell));
      measured = measured || (cell && cell->measured_bytes);
    }
  }
  std::string what = "Peak memory by batch size and sequence length, planned";
  if (measured)
    what += t.device.starts_with("cuda") ? " / taken of the GPU's memory"
                                         : " / resident of the whole process";
  return str(escaped(t.model), ", ", escaped(t.architecture), ", ", t.weights, " weights, cache ",
             t.cache_type, "; device ", t.device, ", ", size_text(t.limit_bytes), " available\n",
             what, "\n\n", markdown_table(rows, /*left=*/1));
}

std::vector<Json> cells_json(const MemoryTable& t) {
  std::vector<Json> out;
  for (size_t b = 0; b < t.batches.size(); ++b)
    for (size_t l = 0; l < t.lengths.size(); ++l) {
      const std::optional<MemoryCell>& cell = t.cells[b][l];
      if (!cell) continue;
      Json row = Json::object();
      row.set("batch", t.batches[b]).set("sequence_length", t.lengths[l]);
      row.set("planned_bytes", cell->planned_bytes).set("fits", cell->fits);
      row.set("measured_bytes", cell->measured_bytes ? Json(*cell->measured_bytes) : Json());
      out.push_back(std::move(row));
    }
  return out;
}

std::string csv(const MemoryTable& t) {
  std::vector<std::vector<std::string>> rows = {
      {"batch", "sequence length", "planned", "measured", "fits"}};
  for (const Json& c : cells_json(t)) {
    const Json& measured = *c.find("measured_bytes");
    rows.push_back({c.find("batch")->dump(), c.find("sequence_length")->dump(),
                    c.find("planned_bytes")->dump(), measured.is_null() ? "" : measured.dump(),
                    c.find("fits")->dump()});
  }
  return csv_table(rows);
}

Json head_json(const MemoryTable& t) {
  Json out = Json::object();
  out.set("model", t.model).set("architecture", t.architecture).set("weights", t.weights);
  out.set("cache_type", t.cache_type).set("device", t.device);
  return out.set("limit_bytes", t.limit_bytes);
}

}  // namespace

std::optional<MemoryTable> memory_table(const BenchOptions& options) {
  return Table(options).run();
}

std::string memory_table_text(const MemoryTable& t, BenchFormat format) {
  if (format == BenchFormat::kMarkdown) return markdown(t);
  if (format == BenchFormat::kCsv) return csv(t);
  const std::vector<Json> cells = cells_json(t);
  if (format == BenchFormat::kJson)
    return head_json(t).set("cells", Json(Json::Array(cells.begin(), cells.end()))).dump() + "\n";
  std::string out;
  for (const Json& c : cells) out += head_json(t).set("cell", c).dump() + "\n";
  return out;
}

}  // namespace dsr
