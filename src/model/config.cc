#include "model/config.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "model/arch/registry.h"
#include "model/config_fields.h"

namespace dsr {
namespace {

constexpr std::array kCommonInts = {
    IntField{"hidden_size", &ModelConfig::hidden_size, 1, kMaxWidth, {}},
    IntField{"intermediate_size", &ModelConfig::intermediate_size, 1, kMaxWidth, {}},
    IntField{"num_hidden_layers", &ModelConfig::num_hidden_layers, 1, kMaxLayers, {}},
    IntField{"num_attention_heads", &ModelConfig::num_attention_heads, 1, kMaxWidth, {}},
    IntField{"vocab_size", &ModelConfig::vocab_size, 1, kMaxVocab, {}},
    IntField{
        "max_position_embeddings", &ModelConfig::max_position_embeddings, 1, kMaxPositions, {}},
};
// At 1 every frequency is 1 and YaRN's ramp divides by ln(rope_theta) = 0.
constexpr double kMinRopeTheta = 2, kMaxRopeTheta = 1e12;
constexpr std::array kCommonDoubles = {
    DoubleField{"rms_norm_eps", &ModelConfig::rms_norm_eps, 0, 1, {}},
    DoubleField{"rope_theta", &ModelConfig::rope_theta, kMinRopeTheta, kMaxRopeTheta, 10000.0},
};
constexpr std::array kCommonBools = {
    BoolField{"tie_word_embeddings", &ModelConfig::tie_word_embeddings, false},
};
constexpr std::array kCommonFixed = {
    FixedField{"hidden_act", "\"silu\""},
    FixedField{"mlp_bias", "false"},
    FixedField{"use_qk_norm", "false"},
    FixedField{"attn_logit_softcapping", "null"},
    FixedField{"final_logit_softcapping", "null"},
    FixedField{"index_topk", "null"},  // sparse attention (V3.2)
};
// Training, serving and bookkeeping: nothing in the forward pass depends on them.
constexpr std::array kCommonIgnored = {
    "architectures",        "model_type",        "torch_dtype",  "dtype",
    "transformers_version", "use_cache",         "pad_token_id", "initializer_range",
    "pretraining_tp",       "attention_dropout", "auto_map",     "_name_or_path",
    "output_router_logits",
};

constexpr ArchitectureFields kCommon{kCommonInts, kCommonDoubles, kCommonBools, kCommonFixed,
                                     kCommonIgnored};

std::string architecture_of(JsonReader& reader) {
  const Json& list = reader.require("architectures");
  if (!list.is_array() || list.as_array().size() != 1 || !list.as_array()[0].is_string())
    fail_model(reader.place(), ": architectures is ", escaped(list.dump()),
               ", expected a list of one name");
  return list.as_array()[0].as_string();
}

void read_token_ids(JsonReader& reader, ModelConfig& c) {
  c.bos_token_id = reader.get_int("bos_token_id", -1, c.vocab_size - 1, -1);
  if (const Json* eos = reader.optional("eos_token_id"); eos != nullptr && eos->is_array()) {
    for (const Json& id : eos->as_array()) {
      if (!id.is_int())
        fail_model(reader.place(), ": eos_token_id holds ", escaped(id.dump()),
                   ", expected integers");
      c.eos_token_ids.push_back(id.as_int());
    }
  } else if (eos != nullptr) {
    c.eos_token_ids.push_back(reader.require_int("eos_token_id", 0, kMaxVocab));
  }
  for (const int64_t id : c.eos_token_ids)
    if (id < 0 || id >= c.vocab_size)
      fail_model(reader.place(), ": eos_token_id ", id, " is not below vocab_size ", c.vocab_size);
}

void read_yarn(JsonReader& r, RopeScaling& s) {
  s.original_max_position_embeddings =
      r.require_int("original_max_position_embeddings", 1, kMaxPositions);
  s.beta_fast = r.get_double("beta_fast", 1e-6, 1e6, 32);
  s.beta_slow = r.get_double("beta_slow", 1e-6, 1e6, 1);
  s.mscale = r.get_double("mscale", 0, 100, 1);
  s.mscale_all_dim = r.get_double("mscale_all_dim", 0, 100, 0);
}

void read_llama3(JsonReader& r, RopeScaling& s) {
  s.original_max_position_embeddings =
      r.require_int("original_max_position_embeddings", 1, kMaxPositions);
  s.low_freq_factor = r.require_double("low_freq_factor", 1e-6, 1e6);
  s.high_freq_factor = r.require_double("high_freq_factor", 1e-6, 1e6);
  if (s.high_freq_factor <= s.low_freq_factor)
    fail_model(r.place(), ".high_freq_factor ", s.high_freq_factor,
               " is not above low_freq_factor ", s.low_freq_factor);
}

// Some models turn only a part of each head.
void check_partial_rotary(JsonReader& r) {
  if (const double part = r.get_double("partial_rotary_factor", 0, 1, 1); part != 1)
    fail_model(r.place(), ": partial_rotary_factor is ", part, ", only 1 is supported");
}

// Two spellings of one key; files saved by transformers 4.43 and later may hold both.
std::string rope_type_of(JsonReader& r) {
  const std::string type = r.get_string("type", ""), rope_type = r.get_string("rope_type", type);
  if (!type.empty() && type != rope_type)
    fail_model(r.place(), ".type is ", quoted(type), ", rope_type is ", quoted(rope_type));
  return rope_type;
}

RopeScaling read_rope_scaling(JsonReader& r) {
  RopeScaling s;
  const std::string type = rope_type_of(r);
  check_partial_rotary(r);
  if (type == "yarn")
    s.type = RopeScalingType::kYarn;
  else if (type == "llama3")
    s.type = RopeScalingType::kLlama3;
  else if (type == "linear")
    s.type = RopeScalingType::kLinear;
  else if (type != "default")
    fail_model(r.place(), ".type ", quoted(type),
               " is not supported (supported: yarn, llama3, linear)");
  if (s.type != RopeScalingType::kNone) s.factor = r.require_double("factor", 1, 1e6);
  if (s.type == RopeScalingType::kYarn) read_yarn(r, s);
  if (s.type == RopeScalingType::kLlama3) read_llama3(r, s);
  for (const std::string& key : r.unread_keys())
    fail_model(r.place(), ".", escaped(key), " is not supported");
  return s;
}

// `rope_scaling`, or `rope_parameters`: what transformers 5 saves in its place, with rope_theta
// inside.
void read_rope(JsonReader& reader, ModelConfig& c) {
  const Json* scaling = reader.optional("rope_scaling");
  const Json* parameters = reader.optional("rope_parameters");
  if (scaling != nullptr && parameters != nullptr)
    fail_model(reader.place(), ": has both rope_scaling and rope_parameters, expected one");
  if (scaling == nullptr && parameters == nullptr) return;
  JsonReader r(scaling != nullptr ? *scaling : *parameters,
               reader.place() + (scaling != nullptr ? ": rope_scaling" : ": rope_parameters"));
  const double theta = r.get_double("rope_theta", kMinRopeTheta, kMaxRopeTheta, c.rope_theta);
  if (reader.has("rope_theta") && theta != c.rope_theta)
    fail_model(r.place(), ".rope_theta is ", theta, ", rope_theta is ", c.rope_theta);
  c.rope_theta = theta;
  c.rope_scaling = read_rope_scaling(r);
}

// No latent-attention model was released with them, and no golden holds them.
void check_rope_of_mla(const JsonReader& reader, const ModelConfig& c) {
  const RopeScalingType type = c.rope_scaling.type;
  if (c.attention == AttentionKind::kMla &&
      (type == RopeScalingType::kLlama3 || type == RopeScalingType::kLinear))
    fail_model(reader.place(), ": rope_scaling of ", c.architecture, ": only yarn is supported");
}

// Modules that an FP8 checkpoint leaves as they were, by dotted name or a part of one.
std::vector<std::string> read_unconverted(JsonReader& r) {
  std::vector<std::string> out;
  for (const char* key : {"modules_to_not_convert", "ignored_layers"}) {
    const Json* list = r.optional(key);
    if (list == nullptr) continue;
    const auto is_name = [](const Json& j) { return j.is_string() && !j.as_string().empty(); };
    if (!list->is_array() ||
        !std::all_of(list->as_array().begin(), list->as_array().end(), is_name))
      fail_model(r.place(), ": ", key, " is ", escaped(list->dump()), ", expected a list of names");
    for (const Json& name : list->as_array()) out.push_back(name.as_string());
  }
  return out;
}

void read_quantization(const Json& json, const std::string& place, ModelConfig& c) {
  JsonReader r(json, place + ": quantization_config");
  const std::string method = r.require_string("quant_method");
  if (method != "fp8")
    fail_model(r.place(), ": quant_method ", quoted(method), " is not supported (supported: fp8)");
  if (const std::string fmt = r.get_string("fmt", "e4m3"); fmt != "e4m3")
    fail_model(r.place(), ": fmt ", quoted(fmt), " is not supported (supported: e4m3)");
  if (const std::string f = r.get_string("scale_fmt", "float32");
      f != "float32" && f != "float" && f != "ue8m0")
    fail_model(r.place(), ": scale_fmt ", quoted(f), " is not supported (supported: ue8m0)");
  const Json& block = r.require("weight_block_size");
  const bool two_ints = block.is_array() && block.as_array().size() == 2 &&
                        block.as_array()[0].is_int() && block.as_array()[1].is_int();
  if (!two_ints || block.as_array()[0].as_int() < 1 || block.as_array()[1].as_int() < 1 ||
      block.as_array()[0].as_int() > kMaxWidth || block.as_array()[1].as_int() > kMaxWidth)
    fail_model(r.place(), ": weight_block_size is ", escaped(block.dump()),
               ", expected two positive integers");
  c.quant = {block.as_array()[0].as_int(), block.as_array()[1].as_int()};
  if (const std::string a = r.get_string("activation_scheme", "dynamic"); a != "dynamic")
    fail_model(r.place(), ": activation_scheme ", quoted(a),
               " is not supported (supported: dynamic)");
  c.unconverted_modules = read_unconverted(r);
  for (const std::string& key : r.unread_keys())
    fail_model(r.place(), ".", escaped(key), " is not supported");
}

}  // namespace

void check_width(const JsonReader& reader, const char* what, int64_t a, int64_t b) {
  if (a * b > kMaxWidth)
    fail_model(reader.place(), ": ", what, " is ", a, " x ", b, ", expected at most ", kMaxWidth);
}

void read_fields(JsonReader& reader, const ArchitectureFields& fields, ModelConfig& config) {
  for (const IntField& f : fields.ints)
    config.*f.member = f.fallback ? reader.get_int(f.key, f.min, f.max, *f.fallback)
                                  : reader.require_int(f.key, f.min, f.max);
  for (const DoubleField& f : fields.doubles)
    config.*f.member = f.fallback ? reader.get_double(f.key, f.min, f.max, *f.fallback)
                                  : reader.require_double(f.key, f.min, f.max);
  for (const BoolField& f : fields.bools) config.*f.member = reader.get_bool(f.key, f.fallback);
  for (const FixedField& f : fields.fixed)
    if (const Json* v = reader.optional(f.key); v != nullptr && v->dump() != f.value)
      fail_model(reader.place(), ": ", f.key, " is ", escaped(v->dump()), ", only ", f.value,
                 " is supported");
  for (const char* key : fields.ignored) reader.optional(key);
}

ModelConfig parse_config(const Json& json, const WarningSink& warn) {
  JsonReader reader(json, "config.json");
  ModelConfig c;
  c.architecture = architecture_of(reader);
  c.model_type = reader.get_string("model_type", "");
  const Architecture& arch = architecture(c.architecture);
  read_fields(reader, kCommon, c);
  read_token_ids(reader, c);
  check_partial_rotary(reader);
  read_rope(reader, c);
  if (const Json* q = reader.optional("quantization_config"); q != nullptr)
    read_quantization(*q, reader.place(), c);
  arch.read_config(reader, c);
  check_rope_of_mla(reader, c);
  if (warn) {
    std::string unknown;
    for (const std::string& key : reader.unread_keys())
      // "_card" and the like are notes to whoever reads the file.
      if (!key.starts_with('_')) unknown += (unknown.empty() ? "" : ", ") + escaped(key);
    if (!unknown.empty()) warn("config.json: keys not understood and ignored: " + unknown);
  }
  return c;
}

}  // namespace dsr
