#include "support/tiny_checkpoint.h"

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/mapped_file.h"
#include "base/math.h"
#include "base/rng.h"
#include "model/weights.h"
#include "support/safetensors_writer.h"

namespace dsr::test {
namespace {

uint64_t fnv1a(std::string_view text) {
  uint64_t h = 0xcbf29ce484222325u;
  for (const char c : text) h = (h ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  return h;
}

DType dtype_of(const std::string& name) {
  if (name == "F32") return DType::kF32;
  if (name == "BF16") return DType::kBF16;
  if (name == "F16") return DType::kF16;
  if (name == "F8_E4M3") return DType::kF8E4M3;
  DSR_CHECK(name == "F8_E8M0", name);
  return DType::kF8E8M0;
}

// One tensor's words. The formulas of what follows stand in scripts/golden_weights.py.
class Words {
 public:
  Words(uint64_t seed, const std::string& name) : stream_(seed, fnv1a(name)) {}

  uint32_t next() { return stream_.next_u32(); }
  static int byte_sum(uint32_t w) {
    return static_cast<int>((w & 255) + ((w >> 8) & 255) + ((w >> 16) & 255) + (w >> 24)) - 510;
  }
  double next_m() {
    const uint32_t w = next();
    return byte_sum(w) * 16384 + static_cast<int>(w & 0x3fff) - 8192;
  }

 private:
  PhiloxStream stream_;
};

int half_log(int64_t k) {
  int h = 0;
  while ((int64_t{1} << (2 * h)) < k) ++h;
  return h;
}

int gain_of(const std::string& name) {
  if (name.ends_with("lm_head.weight")) return 2;
  for (const char* suffix :
       {"q_proj.weight", "q_b_proj.weight", "mlp.gate.weight", "embed_tokens.weight"})
    if (name.ends_with(suffix)) return 1;
  return 0;
}

bool stays_unquantized(const std::string& name) {
  for (const char* suffix : {"mlp.gate.weight", "lm_head.weight", "eh_proj.weight"})
    if (name.ends_with(suffix)) return true;
  return false;
}

int lift_of(int64_t block_row, int64_t block_column) {
  return static_cast<int>(4 * ((block_row + block_column) % 4));
}

// Every element of a tensor as float32, before it is rounded to its type.
std::vector<float> plain_values(const TinySpec& spec, const std::string& name,
                                const std::vector<int64_t>& shape) {
  Words words(spec.seed, name);
  const bool bias = name.ends_with("e_score_correction_bias");
  const bool qkv_bias = name.ends_with("_proj.bias");
  const bool table =
      name.ends_with("embed_tokens.weight") && !spec.config.find("tie_word_embeddings")->as_bool();
  const int exponent =
      table ? -21 : gain_of(name) - 21 - (shape.size() == 2 ? half_log(shape[1]) : 0);
  std::vector<float> out(static_cast<size_t>(Shape(shape).elements()));
  for (float& v : out) {
    const double m = words.next_m();
    if (bias)
      v = static_cast<float>(m * 0x1p-25 + spec.bias_offset);
    else if (qkv_bias)
      v = static_cast<float>(m * 0x1p-23);
    else if (shape.size() == 1)
      v = static_cast<float>(1 + m * 0x1p-24);
    else
      v = static_cast<float>(std::ldexp(m, exponent));
  }
  return out;
}

std::string plain_bytes(const TinySpec& spec, const std::string& name,
                        const std::vector<int64_t>& shape, const std::string& dtype) {
  const std::vector<float> values = plain_values(spec, name, shape);
  const DType type = dtype_of(dtype);
  std::string out(values.size() * static_cast<size_t>(size_bytes(type)), '\0');
  from_f32(type, values.data(), out.data(), static_cast<int64_t>(values.size()));
  return out;
}

std::string code_bytes(const TinySpec& spec, const std::string& name, const WeightSpec& w,
                       const QuantScheme& q) {
  Words words(spec.seed, name);
  std::string out;
  for (int64_t o = 0; o < w.shape[0]; ++o)
    for (int64_t i = 0; i < w.shape[1]; ++i) {
      const int lift = lift_of(o / q.block_rows, i / q.block_columns);
      const auto s = static_cast<float>(Words::byte_sum(words.next()));
      out += static_cast<char>(f32_to_e4m3(std::ldexp(s, -lift)));
    }
  return out;
}

std::string scale_bytes(const TinySpec& spec, const std::string& name, const WeightSpec& w,
                        const std::vector<int64_t>& shape) {
  Words words(spec.seed, name + "_scale_inv");
  std::string out;
  for (int64_t r = 0; r < shape[0]; ++r)
    for (int64_t c = 0; c < shape[1]; ++c) {
      const uint32_t word = words.next();
      const int exponent = lift_of(r, c) + 2 * gain_of(name) - 8 - half_log(w.shape[1]);
      if (spec.scale_dtype == "F32") {
        const auto v =
            static_cast<float>(std::ldexp(1 + static_cast<double>(word >> 9) * 0x1p-23, exponent));
        out.append(reinterpret_cast<const char*>(&v), sizeof v);
      } else {
        out += static_cast<char>(exponent + static_cast<int>(word & 1) + 127);
      }
    }
  return out;
}

// Whose words a tensor has: the MTP layer's vocabulary copies equal the main matrices.
std::string source_name(const std::string& name) {
  if (name.ends_with(".shared_head.head.weight")) return "lm_head.weight";
  return name.ends_with(".embed_tokens.weight") ? "model.embed_tokens.weight" : name;
}

}  // namespace

TinySpec TinySpec::load(const std::string& name) {
  const std::string path = std::string(DSR_SOURCE_DIR "/tests/data/goldens/") + name + ".json";
  const Json json = parse_json(read_file(path, 1 << 20), path);
  JsonReader r(json, path);
  TinySpec s;
  s.name = name;
  s.config = r.require("config");
  s.seed = static_cast<uint64_t>(r.require_int("seed", 0, INT64_MAX));
  s.dtype = r.require_string("dtype");
  s.bias_dtype = r.get_string("bias_dtype", s.bias_dtype);
  s.bias_offset = r.get_double("bias_offset", -1, 1, 0);
  s.scale_dtype = r.get_string("scale_dtype", s.scale_dtype);
  s.mtp_copies = r.get_bool("mtp_copies", false);
  for (const std::string& key : r.unread_keys()) fail_internal(path, ": unknown key ", key);
  return s;
}

TinyCheckpoint::TinyCheckpoint(const TinySpec& spec)
    : spec_(spec), config_(parse_config(spec.config, {})) {
  const QuantScheme& q = config_.quant;
  ModelWeights unused;
  for_each_weight(config_, true, unused, [&](const WeightSpec& w) {
    if (w.role == WeightRole::kUnused && !spec.mtp_copies) return;
    if (w.role == WeightRole::kLinear && q.block_rows > 0 && !stays_unquantized(w.name)) {
      const std::vector<int64_t> blocks = {ceil_div(w.shape[0], q.block_rows),
                                           ceil_div(w.shape[1], q.block_columns)};
      set(w.name, "F8_E4M3", w.shape, code_bytes(spec, w.name, w, q));
      set(w.name + "_scale_inv", spec.scale_dtype, blocks, scale_bytes(spec, w.name, w, blocks));
      return;
    }
    const std::string& dtype =
        w.name.ends_with("e_score_correction_bias") ? spec.bias_dtype : spec.dtype;
    set(w.name, dtype, w.shape, plain_bytes(spec, source_name(w.name), w.shape, dtype));
  });
}

const SourceTensor* TinyCheckpoint::find(const std::string& name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second.tensor;
}

std::vector<std::string> TinyCheckpoint::names() const {
  std::vector<std::string> out;
  for (const auto& [name, entry] : tensors_) out.push_back(name);
  return out;
}

void TinyCheckpoint::set(const std::string& name, const std::string& dtype,
                         const std::vector<int64_t>& shape, std::string bytes) {
  Entry& e = tensors_[name];
  e.bytes = std::move(bytes);
  e.tensor = {dtype, dtype_of(dtype), shape, reinterpret_cast<const std::byte*>(e.bytes.data()),
              "model.safetensors"};
}

void TinyCheckpoint::erase(const std::string& name) { DSR_CHECK(tensors_.erase(name) == 1, name); }

uint64_t TinyCheckpoint::digest() const {
  uint64_t total = 0;
  for (const auto& [name, entry] : tensors_) {
    uint64_t sum = 0;
    for (size_t i = 0; i < entry.bytes.size(); ++i)
      sum += static_cast<uint8_t>(entry.bytes[i]) * (2 * i + 1);
    total += fnv1a(name) * (2 * sum + 1);
  }
  return total;
}

void TinyCheckpoint::write(const std::string& directory, int n_shards) const {
  write_file(directory + "/config.json", spec_.config.pretty());
  std::vector<SafetensorsWriter> shards(static_cast<size_t>(n_shards));
  Json map = Json::object();
  int64_t total_bytes = 0;
  size_t i = 0;
  const auto file_name = [&](size_t shard) {
    if (n_shards == 1) return std::string("model.safetensors");
    std::string number = std::to_string(shard + 1), count = std::to_string(n_shards);
    number.insert(0, 5 - number.size(), '0');
    count.insert(0, 5 - count.size(), '0');
    return "model-" + number + "-of-" + count + ".safetensors";
  };
  for (const auto& [name, entry] : tensors_) {
    const size_t shard = i++ % shards.size();
    shards[shard].add(name, entry.tensor.dtype_name, entry.tensor.shape, entry.bytes);
    map.set(name, file_name(shard));
    total_bytes += static_cast<int64_t>(entry.bytes.size());
  }
  for (size_t s = 0; s < shards.size(); ++s) shards[s].write(directory + "/" + file_name(s));
  if (n_shards == 1) return;
  Json index = Json::object();
  index.set("metadata", Json::object()).set("total_size", total_bytes);
  index.set("weight_map", std::move(map));
  write_file(directory + "/model.safetensors.index.json", index.pretty());
}

}  // namespace dsr::test
