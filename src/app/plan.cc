// plan: what a model needs, before it is loaded or even downloaded.
#include "deepseek_run/plan.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>

#include "app/plan_report.h"
#include "base/error.h"
#include "device/peaks.h"
#include "engine/device_choice.h"
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

// "8xA100-80"
std::string text_of(const GpuSet& g) { return str(g.count, "x", g.gpu->name); }

constexpr int64_t kMostSequences = 1024;  // of an engine

// The largest number from 1 to `most` that fits, found from a guess that is nearly that; 0: none.
int64_t largest_fitting(int64_t guess, int64_t most, const std::function<bool(int64_t)>& fits) {
  for (int64_t n = std::min(guess, most); n > 0; n -= std::max<int64_t>(n / 64, 1))
    if (fits(n)) return n;
  return 0;
}

struct Shape {
  int64_t ctx_size, max_seqs;
};
// `free_bytes`: what the plan leaves; `token_bytes`: of a token's keys.
Room room_for(const Shape& plan, int64_t model_context, double free_bytes, double token_bytes,
              const std::function<bool(const Shape&)>& fits) {
  const double tokens =
      static_cast<double>(plan.max_seqs * plan.ctx_size) + free_bytes / token_bytes;
  const auto guess = [&](double n) { return static_cast<int64_t>(std::min(n, 1e15)); };
  Room out;
  out.ctx_size = largest_fitting(guess(tokens), model_context, [&](int64_t n) {
    return fits({n, 1});
  });
  out.whole_context = out.ctx_size == model_context;
  out.max_seqs = largest_fitting(guess(tokens / static_cast<double>(plan.ctx_size)), kMostSequences,
                                 [&](int64_t n) {
                                   return fits({plan.ctx_size, n});
                                 });
  return out;
}

class GpuPlanner {
 public:
  GpuPlanner(const PlanQuery& q, const Subject& s)
      : q_(q),
        s_(s),
        gpus_(parse_gpus(q.gpus)),
        cache_type_(cache_type_of(q.cache_type, Backend::kCuda)),
        chunk_(chunk_of(q.chunk, Backend::kCuda)),
        most_(s.config.max_position_embeddings),
        weights_(model_sizes_of_weights(s.config, *s.source)) {
    if (q.ctx_size > most_)
      fail_usage("context ", with_commas(q.ctx_size), " tokens, the model's is ",
                 with_commas(most_));
  }

  void plan(PlanFindings& f) const {
    const Shape wanted{q_.ctx_size > 0 ? q_.ctx_size : std::min(most_, kDefaultContext),
                       q_.max_seqs};
    f.has_gpus = true;
    f.cache_type = name(cache_type_);
    f.sizes = sizes(wanted, cache_type_);
    f.on_gpus = plan_gpus(f.sizes, gpus_, wanted.ctx_size, wanted.max_seqs);
    if (!f.fits()) {
      if (const Remedies r = remedies(f.sizes, f.on_gpus); q_.ctx_size == 0 && r.ctx_size)
        f.on_gpus = plan_gpus(f.sizes, gpus_, *r.ctx_size, q_.max_seqs);
      else
        f.remedies = changes(f, wanted);
    }
    f.floors = decode_floors(f.sizes, static_cast<double>(gpus_.gpu->gb_per_s) * 1e9,
                             f.on_gpus.ctx_size, gpus_.count);
    if (f.fits()) f.room = room(f);
  }

 private:
  ModelSizes sizes(const Shape& shape, CacheType type) const {
    return resized(weights_, s_.config, *s_.source, {type, shape.ctx_size, shape.max_seqs, chunk_});
  }
  bool fits(const Shape& shape, CacheType type) const {
    return plan_gpus(sizes(shape, type), gpus_, shape.ctx_size, shape.max_seqs).fits();
  }

  // A longer context takes nothing but its keys; more sequences take activations too.
  Room room(const PlanFindings& f) const {
    const GpuPlan& p = f.on_gpus;
    const double token_bytes = static_cast<double>(p.kv_cache_bytes) /
                               static_cast<double>(p.max_seqs * round_up(p.ctx_size, kPageTokens));
    return room_for({p.ctx_size, p.max_seqs}, most_,
                    static_cast<double>(p.limit_bytes() - p.total_bytes()), token_bytes,
                    [&](const Shape& shape) {
                      if (shape.max_seqs > p.max_seqs) return fits(shape, cache_type_);
                      return plan_gpus(f.sizes, gpus_, shape.ctx_size, shape.max_seqs).fits();
                    });
  }

  // One change each, the cheapest first.
  std::vector<std::string> changes(const PlanFindings& f, const Shape& wanted) const {
    std::vector<std::string> out;
    const Remedies r = remedies(f.sizes, f.on_gpus);
    if (wanted.max_seqs > 1)
      if (const int64_t n =
              largest_fitting(wanted.max_seqs - 1, wanted.max_seqs, [&](int64_t seqs) {
                return fits({wanted.ctx_size, seqs}, cache_type_);
              }))
        out.push_back(str("--max-seqs ", n));
    if (r.ctx_size) out.push_back(str("-c ", *r.ctx_size));
    const bool weights_fit =
        f.on_gpus.total_bytes() - f.on_gpus.kv_cache_bytes <= f.on_gpus.limit_bytes();
    if (weights_fit && cache_type_ != CacheType::kFP8 && fits(wanted, CacheType::kFP8))
      out.push_back("--cache-type fp8");
    if (!q_.card.empty() && released_format(s_.config) == WeightFormat::kBF16) {
      const ModelConfig fp8 = with_format(s_.config, WeightFormat::kFP8);
      const ModelSizes sizes = model_sizes(fp8, DeclaredSource(fp8),
                                           {cache_type_, wanted.ctx_size, wanted.max_seqs, chunk_});
      if (plan_gpus(sizes, gpus_, wanted.ctx_size, wanted.max_seqs).fits())
        out.push_back("--weights fp8");
    }
    if (r.n_gpus) out.push_back("--gpus " + text_of({gpus_.gpu, *r.n_gpus}));
    if (r.gpu != nullptr) out.push_back("--gpus " + text_of({r.gpu, gpus_.count}));
    if (r.set) out.push_back("--gpus " + text_of(*r.set));
    return out;
  }

  const PlanQuery& q_;
  const Subject& s_;
  GpuSet gpus_;
  CacheType cache_type_;
  int64_t chunk_;
  int64_t most_;
  ModelSizes weights_;  // of the weights alone
};

// What this machine has.
class HerePlanner {
 public:
  HerePlanner(const PlanQuery& q, const Subject& s)
      : q_(q),
        s_(s),
        device_(choose_device(q.device)),
        cache_type_(cache_type_of(q.cache_type, device_.backend)) {}

  void plan(PlanFindings& f) const {
    f.cache_type = name(cache_type_);
    const MemoryPlan& p = f.here =
        plan_run(request({q_.ctx_size, q_.max_seqs}, cache_type_), s_.config, *s_.source).plan;
    f.sizes = model_sizes_of_weights(s_.config, *s_.source);
    f.sizes.kv_bytes_per_token = p.kv_bytes_per_token;
    // Looking takes memory too; a GPU's bandwidth takes longer to find than a plan may.
    constexpr int64_t kRoomToLook = int64_t{4} << 30;
    const bool look = device_.backend != Backend::kCuda && p.fits() &&
                      p.available_bytes - p.total_bytes() > kRoomToLook;
    const double bytes_per_s = look ? quick_host_bytes_per_s() : 0;
    f.floors = decode_floors(f.sizes, bytes_per_s, p.ctx_size, /*n_gpus=*/1);
    if (f.fits())
      f.room = room_for({p.ctx_size, p.max_seqs}, s_.config.max_position_embeddings,
                        static_cast<double>(p.available_bytes - p.total_bytes()),
                        static_cast<double>(p.kv_bytes_per_token),
                        [&](const Shape& shape) { return fits(shape, cache_type_); });
    else
      f.remedies = changes(f);
  }

 private:
  PlanRequest request(const Shape& shape, CacheType type) const {
    return {.backend = device_.backend,
            .cpu = {},
            .cuda = {.device = device_.cuda_device},
            .cache_type = type,
            .ctx_size = shape.ctx_size,
            .max_seqs = shape.max_seqs,
            .chunk = chunk_of(q_.chunk, device_.backend)};
  }
  // Every sequence at its longest.
  bool fits(const Shape& shape, CacheType type) const {
    PlanRequest r = request(shape, type);
    r.cache_tokens = shape.max_seqs * round_up(shape.ctx_size, kPageTokens);
    return plan_for_context(r, s_.config, *s_.source).plan.fits();
  }

  std::vector<std::string> changes(const PlanFindings& f) const {
    std::vector<std::string> out;
    const MemoryPlan& p = f.here;
    const Shape wanted{p.ctx_size, q_.max_seqs};
    if (const std::string context = fitting_context(p); !context.empty()) out.push_back(context);
    const bool weights_fit = p.total_bytes() - p.kv_cache_bytes <= p.available_bytes;
    for (const CacheType type : {CacheType::kBF16, CacheType::kFP8})
      if (weights_fit && type != cache_type_ && fits(wanted, type)) {
        out.push_back(str("--cache-type ", name(type)));
        break;
      }
    if (!q_.card.empty() && released_format(s_.config) == WeightFormat::kBF16) {
      const ModelConfig fp8 = with_format(s_.config, WeightFormat::kFP8);
      const PlanRequest r = request(wanted, cache_type_);
      if (plan_for_context(r, fp8, DeclaredSource(fp8)).plan.fits()) out.push_back("--weights fp8");
    }
    // The rest is another machine.
    const ModelSizes sizes =
        resized(f.sizes, s_.config, *s_.source,
                {CacheType::kBF16, p.ctx_size, q_.max_seqs, chunk_of(q_.chunk, Backend::kCuda)});
    if (const auto set = smallest_gpus(sizes, p.ctx_size, q_.max_seqs))
      out.push_back("--gpus " + text_of(*set));
    return out;
  }

  const PlanQuery& q_;
  const Subject& s_;
  DeviceChoice device_;
  CacheType cache_type_;
};

PlanFindings find(const PlanQuery& q) {
  if (q.card.empty() == q.model_dir.empty()) fail_usage("plan needs a model or a --card, not both");
  if (!q.gpus.empty() && q.device != "auto")
    fail_usage(
        "--gpus plans for GPUs by their name, --device for this machine's: give one of them");
  const Subject s = q.card.empty() ? subject_of_directory(q) : subject_of_card(q);
  PlanFindings f;
  f.model = s.name;
  f.architecture = s.config.architecture;
  f.weights = s.weights;
  if (q.gpus.empty())
    HerePlanner(q, s).plan(f);
  else
    GpuPlanner(q, s).plan(f);
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
