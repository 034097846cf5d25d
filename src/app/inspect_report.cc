#include "app/inspect_report.h"

#include <algorithm>

#include "app/format.h"
#include "base/error.h"
#include "base/json.h"

namespace dsr {
namespace {

// "671.0 B", "11.4 M", "950": decimal units, as model cards count parameters.
std::string human_count(int64_t n) {
  constexpr std::array kUnits = {" K", " M", " B", " T"};
  if (n < 1000) return std::to_string(n);
  auto value = static_cast<double>(n) / 1000;
  size_t unit = 0;
  while (value >= 999.95 && unit + 1 < kUnits.size()) {
    value /= 1000;
    ++unit;
  }
  return fixed(value, 1) + kUnits[unit];
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += str(i > 0 ? ", " : "", shape[i]);
  return out + "]";
}

std::string layers_text(const Inspection& in) {
  const ModelConfig& c = in.config;
  int64_t moe = 0;
  for (int64_t l = 0; l < c.num_hidden_layers; ++l) moe += c.is_moe_layer(l);
  std::string out = str(c.num_hidden_layers);
  if (moe > 0) out += str(" (", c.num_hidden_layers - moe, " dense, ", moe, " with experts)");
  if (c.num_nextn_predict_layers > 0)
    out += str(" + ", c.num_nextn_predict_layers, " for multi-token prediction",
               in.has_mtp ? "" : " (not in the files)");
  return out;
}

std::string attention_text(const ModelConfig& c) {
  if (c.attention == AttentionKind::kGqa) {
    const bool mha = c.num_key_value_heads == c.num_attention_heads;
    return str(mha ? "MHA, " : "GQA, ", c.num_attention_heads, " heads",
               mha ? "" : str(", ", c.num_key_value_heads, " key and value heads"), ", head_dim ",
               c.head_dim, c.qkv_bias ? ", biases on q, k and v" : "");
  }
  return str("MLA, ", c.num_attention_heads, " heads, q_lora_rank ",
             c.q_lora_rank > 0 ? str(c.q_lora_rank) : "none", ", kv_lora_rank ", c.kv_lora_rank,
             ", qk_head_dim ", c.qk_nope_head_dim, " + ", c.qk_rope_head_dim, ", v_head_dim ",
             c.v_head_dim);
}

std::string experts_text(const ModelConfig& c) {
  if (c.n_routed_experts == 0) return "none";
  std::string out = str(c.num_experts_per_tok, " of ", c.n_routed_experts);
  if (c.n_group > 1) out += str(" from ", c.topk_group, " of ", c.n_group, " groups");
  return out + str(", ", c.n_shared_experts, " shared, width ", c.moe_intermediate_size);
}

std::string rope_name(RopeScalingType type) {
  switch (type) {
    case RopeScalingType::kNone:
      return "";
    case RopeScalingType::kYarn:
      return "yarn";
    case RopeScalingType::kLlama3:
      return "llama3";
    case RopeScalingType::kLinear:
      return "linear";
  }
  return "";
}

std::string context_text(const ModelConfig& c) {
  std::string out = with_commas(c.max_position_embeddings) + " tokens";
  const RopeScaling& s = c.rope_scaling;
  const std::string name = rope_name(s.type);
  const std::string original = with_commas(s.original_max_position_embeddings);
  if (!name.empty())
    out += str(" (", name, ", factor ", s.factor,
               s.type == RopeScalingType::kLinear ? "" : " over " + original, ")");
  return out;
}

std::string quantisation_text(const ModelConfig& c) {
  if (c.quant.block_rows == 0) return "none";
  return str("fp8 e4m3, one scale per block of ", c.quant.block_rows, " x ", c.quant.block_columns);
}

std::string kv_text(const Inspection& in) {
  std::string out;
  for (const Inspection::KvBytes& kv : in.kv)
    out += str(out.empty() ? "" : ", ", with_commas(kv.bytes_per_token), " as ", name(kv.type));
  return out + " (bytes per token)";
}

std::string parts_table(const Inspection& in) {
  const PartSize total = in.total();
  std::vector<std::vector<std::string>> rows = {
      {"part", "tensors", "parameters", "bytes", "share"}};
  const auto add = [&](const char* what, const PartSize& p) {
    const double share =
        total.bytes > 0 ? 100.0 * static_cast<double>(p.bytes) / static_cast<double>(total.bytes)
                        : 0;
    rows.push_back({what, with_commas(p.tensors), with_commas(p.parameters), with_commas(p.bytes),
                    fixed(share, 1) + " %"});
  };
  for (size_t i = 0; i < kParts; ++i)
    if (in.parts[i].tensors > 0) add(name(static_cast<Part>(i)), in.parts[i]);
  add("total", total);
  return table({{}, {true}, {true}, {true}, {true}}, rows);
}

std::string patterns_table(const Inspection& in) {
  std::vector<std::vector<std::string>> rows = {{"tensor", "count", "dtype", "shape", "bytes"}};
  for (const TensorPattern& p : in.patterns)
    rows.push_back({escaped(p.pattern), with_commas(p.count), escaped(p.dtype), shape_text(p.shape),
                    with_commas(p.bytes)});
  return table({{}, {true}, {}, {}, {true}}, rows);
}

Json json_of(const PartSize& p) {
  Json out = Json::object();
  out.set("tensors", p.tensors).set("parameters", p.parameters).set("bytes", p.bytes);
  return out;
}

Json patterns_json(const Inspection& in) {
  Json out = Json::array();
  for (const TensorPattern& p : in.patterns) {
    Json row = Json::object();
    row.set("pattern", p.pattern)
        .set("count", p.count)
        .set("dtype", p.dtype)
        .set("shape", Json(Json::Array(p.shape.begin(), p.shape.end())))
        .set("bytes", p.bytes);
    out.push_back(std::move(row));
  }
  return out;
}

}  // namespace

PartSize Inspection::total() const {
  PartSize sum;
  for (const PartSize& p : parts) {
    sum.tensors += p.tensors;
    sum.parameters += p.parameters;
    sum.bytes += p.bytes;
  }
  return sum;
}

int64_t Inspection::active_parameters() const {
  const int64_t experts = part(Part::kExperts).parameters;
  const int64_t chosen = config.n_routed_experts > 0
                             ? experts / config.n_routed_experts * config.num_experts_per_tok
                             : 0;
  const int64_t idle = part(Part::kEmbedding).parameters + part(Part::kMtp).parameters +
                       part(Part::kOther).parameters + experts;
  // A tied head is multiplied with, and stored as the embedding.
  const int64_t tied = config.tie_word_embeddings ? part(Part::kEmbedding).parameters : 0;
  return total().parameters - idle + chosen + tied;
}

std::string report_text(const Inspection& in) {
  const ModelConfig& c = in.config;
  const PartSize total = in.total();
  const int64_t mtp = in.part(Part::kMtp).parameters;
  std::string parameters = str(human_count(total.parameters - mtp), ", of which ",
                               human_count(in.active_parameters()), " active per token");
  if (mtp > 0) parameters += str("; multi-token prediction ", human_count(mtp));
  const std::string head =
      table({{}, {}}, {{"model", escaped(in.directory)},
                       {"architecture", escaped(c.architecture)},
                       {"layers", layers_text(in)},
                       {"width", str(c.hidden_size, ", dense layers ", c.intermediate_size)},
                       {"attention", attention_text(c)},
                       {"experts", experts_text(c)},
                       {"vocabulary", with_commas(c.vocab_size)},
                       {"context", context_text(c)},
                       {"quantisation", quantisation_text(c)},
                       {"parameters", parameters},
                       {"files", str(in.n_files, ", ", human_bytes(total.bytes), " of tensors")},
                       {"kv cache", kv_text(in)}});
  return head + "\n" + parts_table(in) + "\n" + patterns_table(in);
}

// null, or {"type", "factor"}.
Json rope_json(const RopeScaling& s) {
  if (s.type == RopeScalingType::kNone) return {};
  Json out = Json::object();
  out.set("type", rope_name(s.type)).set("factor", s.factor);
  return out;
}

std::string report_json(const Inspection& in) {
  const ModelConfig& c = in.config;
  Json out = Json::object();
  out.set("model", in.directory)
      .set("architecture", c.architecture)
      .set("num_hidden_layers", c.num_hidden_layers)
      .set("num_nextn_predict_layers", in.has_mtp ? c.num_nextn_predict_layers : 0)
      .set("hidden_size", c.hidden_size)
      .set("vocab_size", c.vocab_size)
      .set("max_position_embeddings", c.max_position_embeddings)
      .set("rope_scaling", rope_json(c.rope_scaling))
      .set("n_routed_experts", c.n_routed_experts)
      .set("num_experts_per_tok", c.num_experts_per_tok);
  Json quant;
  if (c.quant.block_rows > 0) {
    quant = Json::object();
    quant.set("format", "f8_e4m3")
        .set("block", Json(Json::Array{c.quant.block_rows, c.quant.block_columns}));
  }
  out.set("quantisation", std::move(quant));
  out.set("active_parameters", in.active_parameters());
  Json kv = Json::object();
  for (const Inspection::KvBytes& k : in.kv) kv.set(name(k.type), k.bytes_per_token);
  out.set("kv_bytes_per_token", std::move(kv));
  Json parts = Json::object();
  for (size_t i = 0; i < kParts; ++i)
    if (in.parts[i].tensors > 0) parts.set(name(static_cast<Part>(i)), json_of(in.parts[i]));
  out.set("parts", std::move(parts)).set("total", json_of(in.total()));
  out.set("files", in.n_files).set("tensors", patterns_json(in));
  return out.dump();
}

}  // namespace dsr
