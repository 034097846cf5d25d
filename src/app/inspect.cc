#include "deepseek_run/inspect.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <map>
#include <string_view>
#include <tuple>

#include "app/inspect_report.h"
#include "base/error.h"
#include "base/mapped_file.h"
#include "engine/generation_config.h"
#include "io/checkpoint.h"
#include "model/transformer.h"

namespace dsr {
namespace {

constexpr int64_t kMaxConfigBytes = int64_t{1} << 20;

// "model.layers.3.mlp" -> "model.layers.*.mlp"
std::string pattern_of(std::string_view name) {
  std::string out;
  while (!name.empty()) {
    const size_t end = std::min(name.find('.'), name.size());
    const std::string_view word = name.substr(0, end);
    const bool number = !word.empty() && word.find_first_not_of("0123456789") == word.npos;
    out += number ? "*" : word;
    if (end < name.size()) out += '.';
    name.remove_prefix(std::min(end + 1, name.size()));
  }
  return out;
}

void count_tensors(const Checkpoint& checkpoint, Inspection& out) {
  std::map<std::tuple<std::string, std::string, std::vector<int64_t>>, size_t> index;
  for (const std::string& name : checkpoint.names()) {
    const SourceTensor& t = *checkpoint.find(name);
    int64_t elements = 1;
    for (const int64_t d : t.shape) elements *= d;
    const int64_t bytes = t.dtype ? elements * size_bytes(*t.dtype) : 0;

    PartSize& part = out.parts[static_cast<size_t>(part_of(name, out.config))];
    ++part.tensors;
    if (!name.ends_with("_scale_inv")) part.parameters += elements;
    part.bytes += bytes;

    const auto [at, is_new] =
        index.try_emplace({pattern_of(name), t.dtype_name, t.shape}, out.patterns.size());
    if (is_new) out.patterns.push_back({std::get<0>(at->first), t.dtype_name, t.shape, 0, 0});
    ++out.patterns[at->second].count;
    out.patterns[at->second].bytes += bytes;
  }
  std::stable_sort(
      out.patterns.begin(), out.patterns.end(),
      [](const TensorPattern& a, const TensorPattern& b) { return a.pattern < b.pattern; });
}

Inspection inspect(const std::string& model_dir, const WarningSink& warn) {
  const Checkpoint checkpoint = Checkpoint::open(model_dir, warn);
  Inspection out;
  out.directory = model_dir;
  out.config = parse_config(checkpoint.config(), warn);
  out.n_files = std::ssize(checkpoint.files());
  // A dry run: checks every tensor and scale as loading does, and allocates nothing.
  Exec exec(Backend::kReference, /*dry_run=*/true);
  const Model model(exec, out.config, checkpoint, /*max_positions=*/1);
  out.has_mtp = !model.weights().mtp.empty();
  for (const CacheType type : {CacheType::kF32, CacheType::kBF16, CacheType::kFP8})
    out.kv.push_back({type, model.kv_layout(type).bytes_per_token()});
  count_tensors(checkpoint, out);
  return out;
}

}  // namespace

std::string inspect_text(const std::string& model_dir, const WarningSink& warn) {
  return report_text(inspect(model_dir, warn));
}
std::string inspect_json(const std::string& model_dir, const WarningSink& warn) {
  return report_json(inspect(model_dir, warn));
}

std::string checkpoint_architecture(const std::string& model_dir) {
  const std::string path = model_dir + "/config.json";
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored))
    fail_model(escaped(model_dir), ": has no config.json, expected a model directory");
  const Json json = parse_json(read_file(path, kMaxConfigBytes), "config.json");
  return parse_config(json, {}).architecture;
}

SamplingDefaults checkpoint_sampling(const std::string& model_dir, const WarningSink& warn) {
  constexpr std::string_view kFile = "generation_config.json";
  constexpr int64_t kAnyVocabulary = std::numeric_limits<TokenId>::max();
  const std::string path = str(model_dir, "/", kFile);
  std::error_code ignored;
  SamplingDefaults out;
  if (!std::filesystem::exists(path, ignored)) return out;
  const auto refuse = [&](const std::string& line) {
    if (warn) warn(line);
    out.keys.clear();
  };
  try {
    const Json json = parse_json(read_file(path, kMaxConfigBytes), kFile);
    if (!json.is_object()) fail_model(kFile, ": expected a JSON object, found ", json.type_name());
    for (const char* key : {"temperature", "top_p", "top_k", "repetition_penalty"})
      if (const Json* value = json.find(key); value != nullptr && !value->is_null())
        out.keys.emplace_back(key);
    const Json* sample = json.find("do_sample");
    if (sample != nullptr && sample->is_bool() && !sample->as_bool())
      out.keys.emplace_back("do_sample");
    out.params = sampling_defaults(&json, kAnyVocabulary, refuse);
  } catch (const Error& e) {
    refuse(e.what());
  }
  return out;
}

}  // namespace dsr
