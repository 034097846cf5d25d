#include "model/weights.h"

#include <algorithm>
#include <string_view>

#include "base/error.h"

namespace dsr {
namespace {

// Whether `part` is `name` or some of its dotted words.
bool has_words(std::string_view name, std::string_view part) {
  for (size_t at = name.find(part); at != name.npos; at = name.find(part, at + 1)) {
    const size_t end = at + part.size();
    if ((at == 0 || name[at - 1] == '.') && (end == name.size() || name[end] == '.')) return true;
  }
  return false;
}

// The FP8 releases leave the head, the routers and eh_proj as they were trained.
bool stays_unconverted(const ModelConfig& c, std::string_view module) {
  if (module == "lm_head" || module.ends_with(".mlp.gate") || module.ends_with(".eh_proj"))
    return true;
  return std::any_of(c.unconverted_modules.begin(), c.unconverted_modules.end(),
                     [&](const std::string& part) { return has_words(module, part); });
}

// Visits the tensors of one model; methods name them as the checkpoint does.
class Enumerator {
 public:
  Enumerator(const ModelConfig& config, const std::function<void(const WeightSpec&)>& visit)
      : c_(config), visit_(visit) {}

  void linear(const std::string& name, int64_t rows, int64_t columns, Weight& to, Shard shard) {
    to.quant = c_.quant;
    visit_({.name = name + ".weight",
            .shape = {rows, columns},
            .role = WeightRole::kLinear,
            .shard = shard,
            .fp8 = c_.quant.block_rows > 0 && !stays_unconverted(c_, name),
            .weight = &to});
  }
  void vector(const std::string& name, int64_t size, Tensor& to) {
    visit_({.name = name, .shape = {size}, .role = WeightRole::kVector, .tensor = &to});
  }
  // Elements [begin, begin + size) of a vector of `total`.
  void vector_part(const std::string& name, int64_t size, int64_t begin, int64_t total,
                   Tensor& to) {
    visit_({.name = name,
            .shape = {size},
            .role = WeightRole::kVector,
            .shard = Shard::kRows,
            .tensor = &to,
            .part_begin = begin,
            .part_total = total});
  }
  void table(const std::string& name, Tensor& to) {
    visit_({.name = name,
            .shape = {c_.vocab_size, c_.hidden_size},
            .role = WeightRole::kTable,
            .tensor = &to});
  }
  // A second copy of a vocabulary matrix, as the MTP layers of the FP8 releases carry, and some
  // files of a model whose head is its embedding.
  void vocabulary_copy(const std::string& name) {
    visit_({.name = name,
            .shape = {c_.vocab_size, c_.hidden_size},
            .role = WeightRole::kUnused,
            .optional = true});
  }

  void block(const std::string& prefix, int64_t layer, BlockWeights& w) {
    vector(prefix + ".input_layernorm.weight", c_.hidden_size, w.input_layernorm);
    if (c_.attention == AttentionKind::kMla)
      mla(prefix + ".self_attn", w.mla);
    else
      gqa(prefix + ".self_attn", w.gqa);
    vector(prefix + ".post_attention_layernorm.weight", c_.hidden_size, w.post_attention_layernorm);
    w.is_moe = c_.is_moe_layer(layer);
    if (w.is_moe)
      moe(prefix + ".mlp", w.moe);
    else
      ffn(prefix + ".mlp", c_.intermediate_size, w.mlp);
  }

  void mtp(const std::string& prefix, int64_t layer, MtpWeights& w) {
    vector(prefix + ".enorm.weight", c_.hidden_size, w.enorm);
    vector(prefix + ".hnorm.weight", c_.hidden_size, w.hnorm);
    linear(prefix + ".eh_proj", c_.hidden_size, 2 * c_.hidden_size, w.eh_proj, Shard::kReplicated);
    block(prefix, layer, w.block);
    vector(prefix + ".shared_head.norm.weight", c_.hidden_size, w.norm);
    vocabulary_copy(prefix + ".embed_tokens.weight");
    vocabulary_copy(prefix + ".shared_head.head.weight");
  }

 private:
  void mla(const std::string& prefix, MlaWeights& w) {
    const int64_t D = c_.hidden_size, H = c_.num_attention_heads;
    if (c_.q_lora_rank > 0) {
      linear(prefix + ".q_a_proj", c_.q_lora_rank, D, w.qkv_a_proj, Shard::kReplicated);
      vector(prefix + ".q_a_layernorm.weight", c_.q_lora_rank, w.q_a_layernorm);
      linear(prefix + ".q_b_proj", H * c_.qk_head_dim(), c_.q_lora_rank, w.q_b_proj, Shard::kRows);
    } else {
      linear(prefix + ".q_proj", H * c_.qk_head_dim(), D, w.qkv_a_proj, Shard::kRows);
    }
    linear(prefix + ".kv_a_proj_with_mqa", c_.kv_lora_rank + c_.qk_rope_head_dim, D, w.qkv_a_proj,
           Shard::kReplicated);
    vector(prefix + ".kv_a_layernorm.weight", c_.kv_lora_rank, w.kv_a_layernorm);
    linear(prefix + ".kv_b_proj", H * (c_.qk_nope_head_dim + c_.v_head_dim), c_.kv_lora_rank,
           w.kv_b_proj, Shard::kRows);
    linear(prefix + ".o_proj", D, H * c_.v_head_dim, w.o_proj, Shard::kColumns);
  }

  void gqa(const std::string& prefix, GqaWeights& w) {
    const int64_t D = c_.hidden_size, q = c_.num_attention_heads * c_.head_dim;
    const int64_t kv = c_.num_key_value_heads * c_.head_dim;
    linear(prefix + ".q_proj", q, D, w.qkv_proj, Shard::kRows);
    linear(prefix + ".k_proj", kv, D, w.qkv_proj, Shard::kRows);
    linear(prefix + ".v_proj", kv, D, w.qkv_proj, Shard::kRows);
    if (c_.qkv_bias) {
      vector_part(prefix + ".q_proj.bias", q, 0, q + 2 * kv, w.qkv_bias);
      vector_part(prefix + ".k_proj.bias", kv, q, q + 2 * kv, w.qkv_bias);
      vector_part(prefix + ".v_proj.bias", kv, q + kv, q + 2 * kv, w.qkv_bias);
    }
    linear(prefix + ".o_proj", D, q, w.o_proj, Shard::kColumns);
  }

  void ffn(const std::string& prefix, int64_t width, FfnWeights& w) {
    linear(prefix + ".gate_proj", width, c_.hidden_size, w.gate_up_proj, Shard::kRows);
    linear(prefix + ".up_proj", width, c_.hidden_size, w.gate_up_proj, Shard::kRows);
    linear(prefix + ".down_proj", c_.hidden_size, width, w.down_proj, Shard::kColumns);
  }

  void moe(const std::string& prefix, MoeWeights& w) {
    const int64_t D = c_.hidden_size, F = c_.moe_intermediate_size;
    linear(prefix + ".gate", c_.n_routed_experts, D, w.gate, Shard::kReplicated);
    if (c_.has_correction_bias)
      vector(prefix + ".gate.e_score_correction_bias", c_.n_routed_experts,
             w.e_score_correction_bias);
    for (int64_t e = 0; e < c_.n_routed_experts; ++e) {
      const std::string expert = prefix + ".experts." + std::to_string(e);
      linear(expert + ".gate_proj", F, D, w.experts_gate_up, Shard::kRows);
      linear(expert + ".up_proj", F, D, w.experts_gate_up, Shard::kRows);
      linear(expert + ".down_proj", D, F, w.experts_down, Shard::kColumns);
    }
    if (c_.n_shared_experts > 0)
      ffn(prefix + ".shared_experts", c_.n_shared_experts * F, w.shared_experts);
  }

  const ModelConfig& c_;
  const std::function<void(const WeightSpec&)>& visit_;
};

}  // namespace

void for_each_weight(const ModelConfig& c, bool with_mtp, ModelWeights& w,
                     const std::function<void(const WeightSpec&)>& visit) {
  Enumerator each(c, visit);
  w = {};
  w.layers.resize(static_cast<size_t>(c.num_hidden_layers));
  each.table("model.embed_tokens.weight", w.embed_tokens);
  for (int64_t l = 0; l < c.num_hidden_layers; ++l)
    each.block("model.layers." + std::to_string(l), l, w.layers[static_cast<size_t>(l)]);
  each.vector("model.norm.weight", c.hidden_size, w.norm);
  if (!c.tie_word_embeddings)
    each.linear("lm_head", c.vocab_size, c.hidden_size, w.lm_head, Shard::kRows);
  else
    each.vocabulary_copy("lm_head.weight");
  if (!with_mtp) return;
  w.mtp.resize(static_cast<size_t>(c.num_nextn_predict_layers));
  for (int64_t i = 0; i < c.num_nextn_predict_layers; ++i) {
    const int64_t layer = c.num_hidden_layers + i;
    each.mtp("model.layers." + std::to_string(layer), layer, w.mtp[static_cast<size_t>(i)]);
  }
}

}  // namespace dsr
