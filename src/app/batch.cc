// batch: see deepseek_run/batch.h.
#include "deepseek_run/batch.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>

#include "app/batch_output.h"
#include "app/batch_plan.h"
#include "app/batch_run.h"
#include "app/output_file.h"
#include "base/error.h"
#include "base/mapped_file.h"
#include "base/sha256.h"
#include "deepseek_run/inspect.h"
#include "engine/device_choice.h"
#include "engine/generation_config.h"
#include "io/checkpoint.h"
#include "model/config.h"
#include "model/declared_source.h"
#include "tensor/kv_format.h"

namespace dsr {
namespace {

constexpr int64_t kMostTogether = 256;  // more make a step longer than they make it fuller
constexpr int64_t kMaxSmallFile = int64_t{64} << 20;

// What a model's answers depend on, without reading all of its weights: the small files whole, of
// the weight files their headers, sizes and 64 places of the data.
std::string model_fingerprint(const Checkpoint& checkpoint) {
  constexpr int64_t kPlaces = 64, kPlaceBytes = 4096;
  Sha256 hash;
  for (const char* name : {"config.json", "generation_config.json", "tokenizer.json",
                           "tokenizer.model", "tokenizer_config.json", "chat_template.jinja"}) {
    std::string text;
    try {
      text = read_file(checkpoint.directory() + "/" + name, kMaxSmallFile);
    } catch (const Error&) {  // it has none
    }
    hash.update(str(name, " ", text.size(), "\n", text));
  }
  for (const std::string& name : checkpoint.names()) {
    const SourceTensor* t = checkpoint.find(name);
    const auto bytes = static_cast<int64_t>(tensor_bytes(*t));
    hash.update(str(name, " ", bytes, "\n"));
    const auto* data = reinterpret_cast<const char*>(t->data);
    for (int64_t i = 0; i < kPlaces && i * kPlaceBytes < bytes; ++i) {
      const int64_t at = bytes > kPlaces * kPlaceBytes ? bytes / kPlaces * i : i * kPlaceBytes;
      hash.update(
          std::string_view(data + at, static_cast<size_t>(std::min(kPlaceBytes, bytes - at))));
    }
  }
  return hash.finish();
}

std::string sha256(std::string_view text) {
  Sha256 hash;
  hash.update(text);
  return hash.finish();
}

Json sampling_json(const SamplingParams& p) {
  Json out = Json::object();
  out.set("temperature", p.temperature).set("top_k", p.top_k).set("top_p", p.top_p);
  out.set("min_p", p.min_p).set("repetition_penalty", p.repetition_penalty);
  out.set("presence_penalty", p.presence_penalty).set("frequency_penalty", p.frequency_penalty);
  out.set("penalty_window", p.penalty_window).set("dry_multiplier", p.dry_multiplier);
  out.set("dry_base", p.dry_base).set("dry_allowed_length", p.dry_allowed_length);
  out.set("loop_guard", p.loop_guard).set("logprobs", p.logprobs);
  Json biases = Json::array();
  for (const auto& [id, bias] : p.logit_bias) {
    Json pair = Json::array();
    pair.push_back(int64_t{id});
    pair.push_back(bias);
    biases.push_back(std::move(pair));
  }
  return out.set("logit_bias", std::move(biases));
}

bool same_file(const std::string& a, const std::string& b) {
  struct stat of_a {
  }, of_b{};
  return ::stat(a.c_str(), &of_a) == 0 && ::stat(b.c_str(), &of_b) == 0 &&
         of_a.st_dev == of_b.st_dev && of_a.st_ino == of_b.st_ino;
}

// Links to one OUT share its lock and its manifest. Refuses to read what the batch would write, or
// remove to begin again.
BatchOptions with_files_checked(BatchOptions o) {
  o.output = with_links_followed(o.output);
  if (same_file(o.input, o.output))
    fail_usage("the input and -o are the same file: ", escaped(o.output));
  for (const char* kind : {".lock", ".manifest.json", ".stats.jsonl"})
    if (same_file(o.input, o.output + kind))
      fail_usage("the input is a file that the batch itself writes: ", escaped(o.output + kind));
  return o;
}

class Batch {
 public:
  explicit Batch(const BatchOptions& options) : o_(with_files_checked(options)), lock_(o_.output) {
    input_ = open_input();
    input_sha256_ = sha256(input_.text());
    read_model();
    parser_.emplace(context_, o_.split, o_.note);
    items_ = read_items(split_batch(input_.text(), o_.split), *parser_);
    longest_ = longest_tokens(items_);
    manifest_.emplace(o_.output, manifest(known_context()), o_.restart);
    choose_shard();
  }

  // Nothing of an earlier run is removed, and nothing of this one is written, before it is sure to
  // start; and no record before the manifest, without which it could not be told what it is.
  BatchResult run() {
    if (!o_.restart) output_.emplace(o_.output, o_.retry_errors);
    std::vector<const BatchItem*> pending, invalid;  // these need no model
    for (const BatchItem& item : items_) {
      if (output_ && output_->records().contains(item.id)) continue;
      (item.error.empty() ? pending : invalid).push_back(&item);
    }
    std::unique_ptr<Engine> engine;
    if (!pending.empty()) engine = make_engine(pending);
    manifest_->save(manifest(engine ? Json(engine->info().ctx_size) : known_context()));
    if (o_.restart) output_.emplace(o_.output, o_.retry_errors);
    for (const BatchItem* item : invalid)
      output_->append(item->id, error_record(*item, "invalid_request", item->error), true);
    BatchResult out;
    out.complete = true;
    if (engine) out = run_pending(*engine, std::move(pending));
    output_->sync();
    if (out.complete && o_.ordered) {
      std::vector<std::string> ids;
      for (const BatchItem& item : items_) ids.push_back(item.id);
      output_->put_in_order(ids);
    }
    count(out.progress);
    return out;
  }

 private:
  MappedFile open_input() const {
    if (o_.n_shards < 1 || o_.shard < 0 || o_.shard >= o_.n_shards)
      fail_usage("shard ", o_.shard, " of ", o_.n_shards);
    try {
      return MappedFile::open(o_.input);
    } catch (const Error& e) {
      fail_usage(e.what());  // the file is the user's, not a model's
    }
  }

  void read_model() {
    const Checkpoint checkpoint = Checkpoint::open(o_.engine.model_dir, o_.engine.warn);
    const ModelConfig config = parse_config(checkpoint.config(), o_.engine.warn);
    fingerprint_ = model_fingerprint(checkpoint);
    model_context_ = config.max_position_embeddings;
    const Json& generation = checkpoint.generation_config();
    context_.tokenizer = o_.engine.tokenizer;
    context_.vocab_size = config.vocab_size;
    context_.defaults = sampling_defaults(generation.is_null() ? nullptr : &generation,
                                          config.vocab_size, o_.engine.warn);
    if (o_.sampling) o_.sampling(context_.defaults);
    check_sampling_params(context_.defaults, config.vocab_size);
    context_.system = o_.system;
    context_.thinking = o_.thinking;
    context_.max_new_tokens = o_.max_new_tokens;
    context_.stop = o_.stop;
    context_.seed = o_.seed;
    if (o_.raw || o_.engine.tokenizer == nullptr) return;
    context_.format =
        o_.chat_format.empty()
            ? ChatFormat::detect(checkpoint_architecture(o_.engine.model_dir), *o_.engine.tokenizer)
            : &ChatFormat::by_name(o_.chat_format);
    if (context_.format == nullptr && o_.note)
      o_.note("the model has no chat template: prompts are continued as --raw does");
  }

  // ctx_size: null where it is not known yet.
  Json manifest(Json ctx_size) const {
    constexpr std::array kSplits = {"jsonl", "line", "blank"};
    constexpr std::array kThinking = {"auto", "on", "off"};
    Json out = Json::object();
    out.set("input_sha256", input_sha256_);
    out.set("split", kSplits[static_cast<size_t>(o_.split)]);
    out.set("model", o_.model_name).set("model_fingerprint", fingerprint_);
    // What the words come to: "auto" and the device's own name are the same answers.
    const DeviceChoice device = choose_device(o_.engine.device);
    out.set("device", name(device.backend)).set("gpu", device.gpu_name());
    out.set("cache_type", name(cache_type_of(o_.engine.cache_type, device.backend)));
    out.set("cpu_math", device.backend == Backend::kCpu ? o_.engine.cpu_math : "");
    if (device.backend == Backend::kCuda)  // elsewhere chunks change no bit
      out.set("cuda_arch", device.gpu_arch(o_.engine.cuda_arch))
          .set("chunk", chunk_of(o_.engine.chunk, device.backend));
    out.set("seed", std::to_string(o_.seed)).set("sampling", sampling_json(context_.defaults));
    out.set("max_new_tokens", o_.max_new_tokens);
    out.set("stop", Json(Json::Array(o_.stop.begin(), o_.stop.end())));
    out.set("chat_format", context_.format == nullptr ? "" : context_.format->name());
    out.set("system", o_.system);
    out.set("thinking", kThinking[static_cast<size_t>(o_.thinking)]);
    out.set("shard", str(o_.shard + 1, "/", o_.n_shards));
    return out.set("ctx_size", std::move(ctx_size));
  }

  // The context where it does not depend on what the machine has room for.
  Json known_context() const {
    if (o_.engine.ctx_size > 0) return o_.engine.ctx_size;
    for (const BatchItem& i : items_)
      if (i.error.empty() && i.max_new_tokens < 0) return {};
    return std::min(longest_, model_context_);
  }

  void choose_shard() {
    std::vector<BatchItem> mine;
    for (size_t i = 0; i < items_.size(); ++i) {
      if (static_cast<int64_t>(i) % o_.n_shards != o_.shard) continue;
      BatchItem& item = items_[i];
      item.id = "batch_req_" + sha256(manifest_->id() + "\n" + item.key()).substr(0, 24);
      mine.push_back(std::move(item));
    }
    items_ = std::move(mine);
  }

  std::unique_ptr<Engine> make_engine(const std::vector<const BatchItem*>& pending) {
    EngineOptions e = o_.engine;
    const Json* context = manifest_->find("ctx_size");  // of an earlier run
    if (const Json known = known_context(); e.ctx_size == 0 && !known.is_null())
      e.ctx_size = known.as_int();
    if (e.ctx_size == 0 && context != nullptr && context->is_int()) e.ctx_size = context->as_int();
    int64_t answers = 0, tokens = 0;
    for (const BatchItem* item : pending) {
      answers += item->n;
      const int64_t room = e.ctx_size > 0 ? e.ctx_size : std::min<int64_t>(model_context_, 32768);
      const int64_t most = item->max_new_tokens < 0
                               ? room
                               : std::min(room, item->prompt_tokens + item->max_new_tokens);
      tokens += item->n * round_up(most, kPageTokens);
    }
    if (e.max_seqs == 0) e.max_seqs = std::clamp<int64_t>(answers, 1, kMostTogether);
    // No more than all records together could fill.
    if (e.ctx_size > 0)
      e.cache_tokens = std::min(tokens, e.max_seqs * round_up(e.ctx_size, kPageTokens));
    max_seqs_ = e.max_seqs;
    return Engine::create(e);
  }

  BatchResult run_pending(Engine& engine, std::vector<const BatchItem*> pending) {
    BatchStats stats(o_.output, o_.restart);
    if (!o_.in_file_order) pending = fastest_order(std::move(pending), engine.info().ctx_size);
    BatchRun run(
        {.tokenizer = o_.engine.tokenizer, .model_name = o_.model_name, .max_seqs = max_seqs_},
        engine, *parser_, *output_, stats);
    BatchResult out;
    const Timer timer;
    size_t next = 0;
    run.submit(pending, next);
    while (!run.idle()) {
      if (o_.keep_going && !o_.keep_going()) break;
      run.step();
      run.submit(pending, next);
      report(run, timer.seconds(), out.progress);
    }
    out.complete = run.idle();
    out.stats = engine.stats();
    stats.append(Json::object()
                     .set("records", std::ssize(pending))
                     .set("tokens", run.tokens())
                     .set("seconds", timer.seconds())
                     .set("steps", out.stats.steps)
                     .set("prompt_tokens_computed", out.stats.prompt_tokens_computed)
                     .set("prompt_tokens_reused", out.stats.prompt_tokens_reused)
                     .set("preemptions", out.stats.preemptions));
    return out;
  }

  // Longer records come first: the rest is estimated by its tokens, not by its number.
  void report(const BatchRun& run, double seconds, BatchProgress& p) {
    p.tokens = run.tokens();
    p.seconds = seconds;
    constexpr double kInterval = 0.2;  // seconds: counting takes time in a large batch
    if (!o_.on_progress || since_report_.seconds() < kInterval) return;
    since_report_ = Timer();
    count(p);
    std::vector<const BatchItem*> unfinished;
    for (const BatchItem& i : items_)
      if (!output_->records().contains(i.id)) unfinished.push_back(&i);
    p.eta_seconds = seconds_left(unfinished, run.pace(seconds));
    o_.on_progress(p);
  }

  void count(BatchProgress& p) const {
    p.total = std::ssize(items_);
    p.done = p.failed = 0;
    for (const auto& [id, record] : output_->records()) {
      ++p.done;
      p.failed += record.is_error ? 1 : 0;
    }
  }

  BatchOptions o_;
  BatchLock lock_;
  MappedFile input_;
  std::string input_sha256_, fingerprint_;
  int64_t model_context_ = 0, longest_ = 0, max_seqs_ = 0;
  BatchContext context_;
  std::optional<BatchParser> parser_;
  std::vector<BatchItem> items_;
  std::optional<BatchManifest> manifest_;
  std::optional<BatchOutput> output_;
  Timer since_report_;
};

}  // namespace

BatchResult run_batch(const BatchOptions& options) { return Batch(options).run(); }

}  // namespace dsr
