#include "app/plan_report.h"

#include "app/format.h"
#include "base/error.h"
#include "base/json.h"

namespace dsr {
namespace {

std::string gpus_text(const GpuSet& g) {
  return str(g.count, " x ", g.gpu->name, ": ", g.gpu->memory_bytes >> 30, " GiB and ",
             with_commas(g.gpu->gb_per_s), " GB/s each, as the vendor states them");
}

std::string head_text(const PlanFindings& f) {
  const int64_t ctx_size = f.has_gpus ? f.on_gpus.ctx_size : f.here.ctx_size;
  const int64_t max_seqs = f.has_gpus ? f.on_gpus.max_seqs : f.here.max_seqs;
  std::string context = str(with_commas(ctx_size), " tokens");
  if (max_seqs > 1) context += str(" x ", max_seqs, " sequences");
  return table(
      {{}, {}},
      {{"model", str(escaped(f.model), ", ", escaped(f.architecture), ", ", f.weights, " weights")},
       {"device", f.has_gpus ? gpus_text(f.on_gpus.gpus) : f.here.device + ", on this machine"},
       {"context", str(context, ", kv cache ", f.cache_type, ", ",
                       with_commas(f.sizes.kv_bytes_per_token), " bytes per token")}});
}

// Rows: a part's bytes in the whole model and, with GPUs, on each of them.
std::string parts_table(const PlanFindings& f) {
  std::vector<std::vector<std::string>> rows = {{"part", "bytes"}};
  std::vector<Column> columns = {{}, {true}};
  if (f.has_gpus) {
    rows[0] = {"part", "model", "each GPU"};
    columns.push_back({true});
  }
  const auto add = [&](const char* what, const std::string& model, int64_t here) {
    rows.push_back({what, model});
    if (f.has_gpus) rows.back().push_back(with_commas(here));
  };
  for (size_t i = 0; i < kParts; ++i)
    if (const SharedBytes& p = f.sizes.parts[i]; p.total() > 0)
      add(name(static_cast<Part>(i)), with_commas(p.total()),
          f.has_gpus ? p.on_each_of(f.on_gpus.gpus.count) : 0);
  if (!f.has_gpus) {
    add("kv cache", with_commas(f.here.kv_cache_bytes), 0);
    add("activations", with_commas(f.here.activation_bytes + f.here.batch_bytes), 0);
    add("total", with_commas(f.here.total_bytes()), 0);
    if (f.here.available_bytes > 0) add("available", with_commas(f.here.available_bytes), 0);
    return table(columns, rows);
  }
  const GpuPlan& g = f.on_gpus;
  add("kv cache", "", g.kv_cache_bytes);
  add("activations", "", g.activation_bytes);
  add("workspaces, driver", "", g.reserve_bytes);
  add("total", "", g.total_bytes());
  add("limit (95 %)", "", g.limit_bytes());
  return table(columns, rows);
}

std::string verdict_text(const PlanFindings& f) {
  std::string out = f.fits() ? "fits" : "does not fit";
  if (f.has_gpus)
    out += str(": ", human_bytes(f.on_gpus.total_bytes()), " of ",
               human_bytes(f.on_gpus.limit_bytes()), " on each GPU");
  else
    out += ": " + f.here.summary();
  std::string list;
  for (const std::string& r : f.remedies) list += (list.empty() ? "" : ", or ") + r;
  if (!list.empty()) out += "\n  try: " + list;
  return out + "\n";
}

std::string room_text(const PlanFindings& f) {
  if (!f.fits()) return "";
  const int64_t ctx_size = f.has_gpus ? f.on_gpus.ctx_size : f.here.ctx_size;
  return str("room for one sequence of ", with_commas(f.room.ctx_size), " tokens",
             f.room.whole_context ? " (the model's context)" : "", ", or ",
             with_commas(f.room.max_seqs), " of ", with_commas(ctx_size), "\n");
}

// What bandwidth alone allows; real engines reach a good half of it.
std::string speed_text(const PlanFindings& f) {
  const int64_t ctx_size = f.has_gpus ? f.on_gpus.ctx_size : f.here.ctx_size;
  const bool known = f.floors.bytes_per_s > 0;
  std::vector<std::vector<std::string>> rows = {
      {"sequences", "tok/s at most", str("after ", with_commas(ctx_size), " tokens"),
       f.has_gpus ? "weights read per step, each GPU" : "weights read per step"}};
  for (const DecodeFloor& r : f.floors.rows)
    rows.push_back({str(r.batch), known ? fixed(r.tok_per_s, 0) : "-",
                    known ? fixed(r.tok_per_s_at_end, 0) : "-",
                    human_bytes(static_cast<int64_t>(r.bytes))});
  std::string head = "decoding, by memory bandwidth alone";
  if (known && !f.has_gpus)
    head += str(" (", fixed(f.floors.bytes_per_s * 1e-9, 0), " GB/s, a quick look)");
  return "\n" + head + "\n" + table({{true}, {true}, {true}, {true}}, rows);
}

Json floors_json(const DecodeFloors& floors) {
  Json out = Json::array();
  for (const DecodeFloor& r : floors.rows) {
    const auto speed = [&](double v) { return floors.bytes_per_s > 0 ? Json(v) : Json(); };
    Json row = Json::object();
    row.set("batch", r.batch).set("weight_bytes_per_step", r.bytes);
    row.set("max_tok_per_s", speed(r.tok_per_s));
    row.set("max_tok_per_s_at_ctx_size", speed(r.tok_per_s_at_end));
    out.push_back(std::move(row));
  }
  return out;
}

}  // namespace

std::string report_text(const PlanFindings& f) {
  return head_text(f) + "\n" + parts_table(f) + "\n" + verdict_text(f) + room_text(f) +
         speed_text(f);
}

std::string report_json(const PlanFindings& f) {
  const GpuPlan& g = f.on_gpus;
  Json out = Json::object();
  out.set("model", f.model).set("architecture", f.architecture).set("weights", f.weights);
  Json parts = Json::object();
  for (size_t i = 0; i < kParts; ++i) {
    const SharedBytes& p = f.sizes.parts[i];
    if (p.total() == 0) continue;
    Json row = Json::object();
    row.set("model_bytes", p.total());
    if (f.has_gpus) row.set("gpu_bytes", p.on_each_of(g.gpus.count));
    parts.set(name(static_cast<Part>(i)), std::move(row));
  }
  out.set("parts", std::move(parts));
  out.set("cache_type", f.cache_type).set("kv_bytes_per_token", f.sizes.kv_bytes_per_token);
  if (f.has_gpus) {
    Json gpus = Json::object();
    gpus.set("name", g.gpus.gpu->name)
        .set("count", g.gpus.count)
        .set("memory_bytes", g.gpus.gpu->memory_bytes)
        .set("gb_per_s", g.gpus.gpu->gb_per_s);
    out.set("gpus", std::move(gpus));
    out.set("ctx_size", g.ctx_size).set("max_seqs", g.max_seqs);
    out.set("weight_bytes", g.weight_bytes).set("kv_cache_bytes", g.kv_cache_bytes);
    out.set("activation_bytes", g.activation_bytes).set("reserve_bytes", g.reserve_bytes);
    out.set("total_bytes", g.total_bytes()).set("limit_bytes", g.limit_bytes());
    out.set("active_bytes", f.sizes.active.total());
  } else {
    const MemoryPlan& m = f.here;
    out.set("device", m.device).set("ctx_size", m.ctx_size).set("max_seqs", m.max_seqs);
    out.set("weight_bytes", m.mapped_weight_bytes + m.weight_bytes);
    out.set("kv_cache_bytes", m.kv_cache_bytes);
    out.set("activation_bytes", m.activation_bytes + m.batch_bytes);
    out.set("total_bytes", m.total_bytes()).set("limit_bytes", m.available_bytes);
    out.set("active_bytes", f.sizes.active.total());
  }
  out.set("bandwidth_gb_per_s", f.floors.bytes_per_s * 1e-9);
  out.set("decode", floors_json(f.floors));
  out.set("fits", f.fits());
  if (f.fits())
    out.set("room",
            Json::object().set("ctx_size", f.room.ctx_size).set("max_seqs", f.room.max_seqs));
  out.set("try", Json(Json::Array(f.remedies.begin(), f.remedies.end())));
  return out.dump();
}

}  // namespace dsr
