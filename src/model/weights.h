// The weights of a model as its layers use them, and the list of tensors they come from.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "model/config.h"
#include "tensor/quant.h"

namespace dsr {

// Multi-head latent attention. Projections that read the same input are segments of one weight.
struct MlaWeights {
  Weight qkv_a_proj;      // [q_lora_rank | H * qk_head_dim if there is none, then
                          //  kv_lora_rank + qk_rope_head_dim; D]: q_a_proj or q_proj, and
                          //  kv_a_proj_with_mqa
  Tensor q_a_layernorm;   // [q_lora_rank] f32; empty without q-lora
  Weight q_b_proj;        // [H * qk_head_dim, q_lora_rank]; empty without q-lora
  Tensor kv_a_layernorm;  // [kv_lora_rank] f32
  Weight kv_b_proj;       // [H * (qk_nope_head_dim + v_head_dim), kv_lora_rank]
  Weight o_proj;          // [D, H * v_head_dim]
};

// Multi-head or grouped-query attention.
struct GqaWeights {
  Weight qkv_proj;  // [(H + 2G) * head_dim, D]: q_proj, k_proj, v_proj
  Tensor qkv_bias;  // [(H + 2G) * head_dim] f32, or empty
  Weight o_proj;    // [D, H * head_dim]
};

struct FfnWeights {
  Weight gate_up_proj;  // [2F, D]: gate_proj, up_proj
  Weight down_proj;     // [D, F]
};

struct MoeWeights {
  Weight gate;                     // [E, D]: the router
  Tensor e_score_correction_bias;  // [E] f32, or empty
  Weight experts_gate_up;          // 2E segments: gate_proj, up_proj of expert 0, of expert 1, ...
  Weight experts_down;             // E segments
  FfnWeights shared_experts;       // one MLP of width n_shared_experts * Fm; empty if there is none
};

struct BlockWeights {
  Tensor input_layernorm;  // [D] f32
  MlaWeights mla;          // one of the two, as ModelConfig::attention says
  GqaWeights gqa;
  Tensor post_attention_layernorm;  // [D] f32
  bool is_moe = false;
  FfnWeights mlp;  // dense layers
  MoeWeights moe;  // the others
};

// A multi-token-prediction layer (V3 report, section 2.2). Embedding and head are the main model's.
struct MtpWeights {
  Tensor enorm;    // [D] f32
  Tensor hnorm;    // [D] f32
  Weight eh_proj;  // [D, 2D]: columns of the embedding first, then of the hidden state
  BlockWeights block;
  Tensor norm;  // [D] f32: shared_head.norm
};

struct ModelWeights {
  Tensor embed_tokens;  // [V, D] bf16 | f16 | f32
  std::vector<BlockWeights> layers;
  Tensor norm;     // [D] f32
  Weight lm_head;  // [V, D]
  std::vector<MtpWeights> mtp;
};

// What a tensor is, and so in which types it may come.
enum class WeightRole {
  kLinear,  // a matrix: bf16, f16, f32, or f8_e4m3 with its scales
  kTable,   // bf16, f16 or f32, kept
  kVector,  // norm weights and biases: widened to f32 at load, the only conversion there is
  kUnused,  // a copy of another tensor: its shape is checked, it is not loaded
};

// How ranks share a tensor: by whole quantisation blocks along one dimension.
enum class Shard { kReplicated, kRows, kColumns };

struct WeightSpec {
  std::string name;  // in the checkpoint
  std::vector<int64_t> shape;
  WeightRole role = WeightRole::kLinear;
  Shard shard = Shard::kReplicated;
  bool fp8 = false;          // kLinear: FP8 in this checkpoint, by its quantization_config
  bool optional = false;     // may be absent
  Weight* weight = nullptr;  // kLinear: where its segment is appended
  Tensor* tensor = nullptr;  // kTable and kVector: where it goes
  int64_t part_begin = 0;    // kVector: its place in a tensor of part_total elements that several
  int64_t part_total = 0;    // vectors make up, visited in order; 0: it is the whole
};

// Sizes `weights` for `config` and visits every tensor of the checkpoint, in the order of the
// layers. The one list that drives loading, validation, sharding, memory accounting and census.
// MTP layers are visited if `with_mtp`.
void for_each_weight(const ModelConfig& config, bool with_mtp, ModelWeights& weights,
                     const std::function<void(const WeightSpec&)>& visit);

}  // namespace dsr
