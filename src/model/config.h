// What config.json says of a model, under its own names.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "deepseek_run/log.h"
#include "ops/moe.h"
#include "tensor/quant.h"

namespace dsr {

enum class AttentionKind {
  kMla,  // multi-head latent attention
  kGqa,  // keys and values per head or group of heads; MHA is a group of one
};

enum class RopeScalingType {
  kNone,
  kLinear,  // positions divided by the factor
  kLlama3,  // long wavelengths divided by the factor, short ones kept (Llama 3.1)
  kYarn,    // Peng et al. 2023, arXiv:2309.00071, as DeepSeek-V2 uses it
};

// `rope_scaling`.
struct RopeScaling {
  RopeScalingType type = RopeScalingType::kNone;
  double factor = 1;
  int64_t original_max_position_embeddings = 0;  // yarn, llama3
  double low_freq_factor = 1;                    // llama3
  double high_freq_factor = 4;
  double beta_fast = 32;  // yarn
  double beta_slow = 1;
  double mscale = 1;
  double mscale_all_dim = 0;
};

// Fields carry the checkpoint's names; 0 or empty where an architecture has no such field.
struct ModelConfig {
  std::string architecture;  // architectures[0]
  std::string model_type;

  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t vocab_size = 0;
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 0;
  double rope_theta = 0;
  RopeScaling rope_scaling;
  bool tie_word_embeddings = false;
  int64_t bos_token_id = -1;           // -1: none given
  std::vector<int64_t> eos_token_ids;  // an int or a list in the file

  AttentionKind attention = AttentionKind::kMla;

  // MHA and GQA
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  bool qkv_bias = false;  // biases on q, k and v (Qwen2)

  // MLA
  int64_t q_lora_rank = 0;  // 0: one q_proj
  int64_t kv_lora_rank = 0;
  int64_t qk_nope_head_dim = 0;
  int64_t qk_rope_head_dim = 0;
  int64_t v_head_dim = 0;

  // MoE
  int64_t n_routed_experts = 0;  // 0: every layer is dense
  int64_t n_shared_experts = 0;
  int64_t num_experts_per_tok = 0;
  int64_t moe_intermediate_size = 0;
  int64_t first_k_dense_replace = 0;
  int64_t moe_layer_freq = 1;
  int64_t n_group = 1;
  int64_t topk_group = 1;
  bool norm_topk_prob = false;
  double routed_scaling_factor = 1;
  ScoringFunc scoring_func = ScoringFunc::kSoftmax;
  GroupScore group_score = GroupScore::kMax;
  bool has_correction_bias = false;  // topk_method noaux_tc

  int64_t num_nextn_predict_layers = 0;  // MTP layers stored after the main ones
  QuantScheme quant;                     // quantization_config
  // Of an FP8 checkpoint: modules whose matrices are not FP8, by dotted name or a part of one.
  std::vector<std::string> unconverted_modules;

  int64_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
  // How many dimensions of a head turn with the position.
  int64_t rope_dim() const {
    return attention == AttentionKind::kMla ? qk_rope_head_dim : head_dim;
  }
  // The rule is the same in every DeepSeek architecture with experts.
  bool is_moe_layer(int64_t layer) const {
    return n_routed_experts > 0 && layer >= first_k_dense_replace && layer % moe_layer_freq == 0;
  }
};

// Reads and checks config.json. Throws Error(kModel) naming the field, the value found and the
// values accepted. Keys that nobody knows are one warning.
ModelConfig parse_config(const Json& json, const WarningSink& warn);

}  // namespace dsr
