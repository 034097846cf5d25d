#include "deepseek_run/random_checkpoint.h"

#include <unistd.h>

#include <filesystem>

#include "app/output_file.h"
#include "base/error.h"
#include "base/timer.h"
#include "io/shard_list.h"
#include "model/card.h"
#include "model/random_weights.h"

namespace dsr {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxShardBytes = 5'000'000'000;  // as Hugging Face's tools split

// A directory that is gone with its owner unless it got its name.
class PartialDirectory {
 public:
  explicit PartialDirectory(const std::string& path)
      : final_(path), temporary_(str(path, ".", ::getpid(), ".partial")) {
    std::error_code error;
    if (!fs::create_directory(temporary_, error))
      fail(ErrorKind::kOutput, escaped(temporary_), ": cannot be created",
           error ? ": " + error.message() : std::string());
  }
  PartialDirectory(const PartialDirectory&) = delete;
  PartialDirectory& operator=(const PartialDirectory&) = delete;
  ~PartialDirectory() {
    std::error_code ignored;
    if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
  }

  std::string file(const std::string& name) const { return temporary_ + "/" + name; }
  void commit() {
    std::error_code error;
    fs::rename(temporary_, final_, error);
    if (error)
      fail(ErrorKind::kOutput, escaped(final_), ": cannot be put in place: ", error.message());
    temporary_.clear();
  }

 private:
  std::string final_, temporary_;
};

struct ShardFile {
  std::vector<std::string> tensors;
  int64_t bytes = 0;
};

std::vector<ShardFile> split(const DeclaredSource& source) {
  std::vector<ShardFile> out;
  for (const std::string& name : source.names()) {
    const int64_t bytes = tensor_bytes(*source.find(name));
    if (out.empty() || out.back().bytes + bytes > kMaxShardBytes) out.emplace_back();
    out.back().tensors.push_back(name);
    out.back().bytes += bytes;
  }
  return out;
}

std::string file_name(size_t shard, size_t n_shards) {
  const auto padded = [](size_t n) {
    const std::string digits = std::to_string(n);
    return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
  };
  return "model-" + padded(shard + 1) + "-of-" + padded(n_shards) + ".safetensors";
}

// The length and the JSON in front of a file's data.
std::string header_of(const ShardFile& shard, const DeclaredSource& source) {
  Json header = Json::object();
  header.set("__metadata__", Json::object().set("format", "pt"));
  int64_t at = 0;
  for (const std::string& name : shard.tensors) {
    const SourceTensor& t = *source.find(name);
    const int64_t end = at + tensor_bytes(t);
    Json row = Json::object();
    row.set("dtype", t.dtype_name)
        .set("shape", Json(Json::Array(t.shape.begin(), t.shape.end())))
        .set("data_offsets", Json(Json::Array{at, end}));
    header.set(name, std::move(row));
    at = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string out;
  for (uint64_t n = text.size(), i = 0; i < 8; ++i, n >>= 8) out += static_cast<char>(n & 255);
  return out + text;
}

std::string index_of(const std::vector<ShardFile>& shards, int64_t total_bytes) {
  Json map = Json::object();
  for (size_t s = 0; s < shards.size(); ++s)
    for (const std::string& name : shards[s].tensors) map.set(name, file_name(s, shards.size()));
  Json index = Json::object();
  index.set("metadata", Json::object().set("total_size", total_bytes));
  index.set("weight_map", std::move(map));
  return index.pretty() + "\n";
}

// The card as a config.json of these weights.
Json config_of(const Json& card, WeightFormat format, int64_t layers) {
  Json out = Json::object();
  for (const auto& [key, value] : card.as_object().members) {
    if (key.starts_with('_')) continue;
    if (key == "quantization_config" && format == WeightFormat::kBF16) continue;
    out.set(key, key == "num_hidden_layers" && layers > 0 ? Json(layers) : value);
  }
  if (format == WeightFormat::kFP8 && card.find("quantization_config") == nullptr)
    out.set("quantization_config", Json::object()
                                       .set("quant_method", "fp8")
                                       .set("fmt", "e4m3")
                                       .set("activation_scheme", "dynamic")
                                       .set("weight_block_size", Json(Json::Array{128, 128})));
  return out;
}

void require_room(const std::string& directory, int64_t bytes) {
  fs::path parent = fs::path(directory).parent_path();
  std::error_code error;
  const fs::space_info space = fs::space(parent.empty() ? "." : parent, error);
  if (!error && space.available < static_cast<uintmax_t>(bytes))
    fail(ErrorKind::kOutput, escaped(directory), ": needs ", human_bytes(bytes), ", its disk has ",
         human_bytes(static_cast<int64_t>(space.available)), " left");
}

void write_file(const std::string& path, const std::string& text) {
  OutputFile out(path);
  out.write(text);
  out.commit();
}

}  // namespace

RandomCheckpoint make_random_checkpoint(const RandomCheckpointOptions& o) {
  const Timer timer;
  std::string path = o.directory;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  std::error_code ignored;
  if (path.empty() || fs::exists(fs::symlink_status(path, ignored)))
    fail_usage(quoted(path), ": exists already, expected the name of a new directory");
  const Json card = read_card(o.card);
  const WeightFormat format =
      o.weights.empty() ? released_format(parse_config(card, {})) : weight_format(o.weights);
  const Json config = config_of(card, format, o.layers);
  const DeclaredSource source(parse_config(config, o.warn));
  const std::vector<ShardFile> shards = split(source);

  RandomCheckpoint out;
  out.files = std::ssize(shards);
  for (const ShardFile& s : shards) {
    out.tensors += std::ssize(s.tensors);
    out.bytes += s.bytes;
  }
  require_room(path, out.bytes);
  PartialDirectory directory(path);
  const RandomWeights random(source, o.seed);
  int64_t done_bytes = 0;
  for (size_t s = 0; s < shards.size(); ++s) {
    OutputFile file(directory.file(file_name(s, shards.size())));
    file.write(header_of(shards[s], source));
    for (const std::string& name : shards[s].tensors) {
      if (o.progress && !o.progress(done_bytes, out.bytes)) return out;
      random.generate(name, [&](std::string_view bytes) { file.write(bytes); });
      done_bytes += tensor_bytes(*source.find(name));
    }
    file.commit();
  }
  DSR_CHECK(done_bytes == out.bytes, done_bytes, out.bytes);
  write_file(directory.file(kIndexFileName), index_of(shards, out.bytes));
  write_file(directory.file("config.json"), config.pretty() + "\n");
  directory.commit();
  out.complete = true;
  out.seconds = timer.seconds();
  return out;
}

}  // namespace dsr
