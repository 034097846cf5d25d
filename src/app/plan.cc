// plan: what a model needs, before it is loaded or even downloaded.
#include "deepseek_run/plan.h"

#include <memory>
#include <optional>

#include "app/plan_report.h"
#include "base/error.h"
#include "engine/memory_plan.h"
#include "io/checkpoint.h"
#include "model/card.h"
#include "model/declared_source.h"

namespace dsr {
namespace {

// The shapes of the model that is asked about.
struct Subject {
  ModelConfig config;
  std::unique_ptr<DeclaredSource> source;
  std::string name, weights;
};

Subject subject_of_card(const PlanQuery& q) {
  Subject s;
  const ModelConfig released = parse_config(read_card(q.card), q.warn);
  const WeightFormat format =
      q.weights.empty() ? released_format(released) : weight_format(q.weights);
  s.config = with_format(released, format);
  s.source = std::make_unique<DeclaredSource>(s.config);
  s.name = q.card;
  s.weights = name(format);
  return s;
}

Subject subject_of_directory(const PlanQuery& q) {
  if (!q.weights.empty())
    fail_usage("--weights chooses the format of a --card; a checkpoint is planned as it is");
  const Checkpoint checkpoint = Checkpoint::open(q.model_dir, q.warn);
  Subject s;
  s.config = parse_config(checkpoint.config(), q.warn);
  s.source = std::make_unique<DeclaredSource>(static_cast<const WeightSource&>(checkpoint));
  s.name = q.model_dir;
  s.weights = name(released_format(s.config));
  return s;
}

CacheType cache_type_of(const PlanQuery& q) {
  if (q.cache_type == "auto") return q.gpus.empty() ? CacheType::kF32 : CacheType::kBF16;
  for (const CacheType type : {CacheType::kF32, CacheType::kBF16, CacheType::kFP8})
    if (q.cache_type == name(type)) return type;
  fail_usage("cache type ", quoted(q.cache_type), ", expected auto, f32, bf16 or fp8");
}

// "8xA100-80"
std::string text_of(const GpuSet& g) { return str(g.count, "x", g.gpu->name); }

std::vector<std::string> remedies_on_gpus(const PlanQuery& q, const Subject& s,
                                          const PlanFindings& f, const SizesRequest& request) {
  std::vector<std::string> out;
  const GpuPlan& plan = f.on_gpus;
  const Remedies r = remedies(f.sizes, plan);
  if (r.ctx_size) out.push_back(str("-c ", *r.ctx_size));
  if (!q.card.empty() && released_format(s.config) == WeightFormat::kBF16) {
    const ModelConfig fp8 = with_format(s.config, WeightFormat::kFP8);
    const ModelSizes sizes = model_sizes(fp8, DeclaredSource(fp8), request);
    if (plan_gpus(sizes, plan.gpus, plan.ctx_size, plan.max_seqs).fits())
      out.push_back("--weights fp8");
  }
  if (r.n_gpus) out.push_back("--gpus " + text_of({plan.gpus.gpu, *r.n_gpus}));
  if (r.gpu != nullptr) out.push_back("--gpus " + text_of({r.gpu, plan.gpus.count}));
  return out;
}

void plan_on_gpus(const PlanQuery& q, const Subject& s, PlanFindings& f) {
  const GpuSet gpus = parse_gpus(q.gpus);
  const int64_t most = s.config.max_position_embeddings;
  if (q.ctx_size > most)
    fail_usage("context ", with_commas(q.ctx_size), " tokens, the model's is ", with_commas(most));
  const int64_t wanted = q.ctx_size > 0 ? q.ctx_size : std::min(most, kDefaultContext);
  const SizesRequest request = {cache_type_of(q), wanted, q.max_seqs, q.chunk};
  f.has_gpus = true;
  f.sizes = model_sizes(s.config, *s.source, request);
  f.on_gpus = plan_gpus(f.sizes, gpus, wanted, q.max_seqs);
  if (f.fits()) return;
  if (const Remedies r = remedies(f.sizes, f.on_gpus); q.ctx_size == 0 && r.ctx_size)
    f.on_gpus = plan_gpus(f.sizes, gpus, *r.ctx_size, q.max_seqs);
  else
    f.remedies = remedies_on_gpus(q, s, f, request);
}

void plan_here(const PlanQuery& q, const Subject& s, PlanFindings& f) {
  const PlannedRun run = plan_run({.backend = Backend::kCpu,
                                   .cpu = {},
                                   .cache_type = cache_type_of(q),
                                   .ctx_size = q.ctx_size,
                                   .max_seqs = q.max_seqs,
                                   .chunk = q.chunk},
                                  s.config, *s.source);
  f.here = run.plan;
  f.sizes = model_sizes_of_weights(s.config, *s.source);
  f.sizes.kv_bytes_per_token = run.plan.kv_bytes_per_token;
  if (const std::string context = fitting_context(run.plan); !f.fits() && !context.empty())
    f.remedies.push_back(context);
}

PlanFindings find(const PlanQuery& q) {
  if (q.card.empty() == q.model_dir.empty()) fail_usage("plan needs a model or a --card, not both");
  const Subject s = q.card.empty() ? subject_of_directory(q) : subject_of_card(q);
  PlanFindings f;
  f.model = s.name;
  f.architecture = s.config.architecture;
  f.weights = s.weights;
  f.cache_type = name(cache_type_of(q));
  if (q.gpus.empty())
    plan_here(q, s, f);
  else
    plan_on_gpus(q, s, f);
  return f;
}

}  // namespace

PlanReport plan_text(const PlanQuery& query) {
  const PlanFindings f = find(query);
  return {report_text(f), f.fits()};
}

PlanReport plan_json(const PlanQuery& query) {
  const PlanFindings f = find(query);
  return {report_json(f), f.fits()};
}

}  // namespace dsr
