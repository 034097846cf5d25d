#include "model/layers/mla.h"

#include "ops/linear.h"
#include "ops/mla.h"
#include "ops/rms_norm.h"

namespace dsr {
namespace {

// q_a_layernorm and kv_a_layernorm are built without an eps argument in the modelling code of V2
// and V3, so they use its default whatever rms_norm_eps says.
constexpr float kLatentNormEps = 1e-6f;

}  // namespace

void mla(Rank& rank, const Model& model, const ForwardBatch& b, const MlaArgs& a) {
  Exec& exec = rank.exec;
  const ModelConfig& c = model.config();
  const MlaWeights& w = a.weights;
  const int64_t T = a.x.shape[0], H = c.num_attention_heads / rank.comm.size();
  const int64_t kv_width = c.kv_lora_rank + c.qk_rope_head_dim;
  const Arena::Scope scope(exec.scratch());

  // Both first projections read x: one linear over two row segments.
  const int64_t q_width = w.qkv_a_proj.rows() - kv_width;
  const Tensor qkv_a = exec.scratch().activation({T, q_width + kv_width});
  ops::linear(exec, {.out = qkv_a, .x = a.x, .w = w.qkv_a_proj, .bias = {}});
  Tensor q = columns(qkv_a, 0, q_width);  // [T, q_lora_rank] or [T, H * qk_head_dim]
  const Tensor kv_a = columns(qkv_a, q_width, kv_width);  // [T, kv_lora_rank + qk_rope_head_dim]

  if (c.q_lora_rank > 0) {
    ops::rms_norm(exec, {.out = q, .x = q, .weight = w.q_a_layernorm, .eps = kLatentNormEps});
    const Tensor q_b = exec.scratch().activation({T, H * c.qk_head_dim()});
    ops::linear(exec, {.out = q_b, .x = q, .w = w.q_b_proj, .bias = {}});
    q = q_b;
  }
  q = reshape(q, {T, H, c.qk_head_dim()});

  const Tensor q_latent = exec.scratch().activation({T, H, kv_width});
  ops::mla_query_and_write(exec, {.query = {.out = q_latent,
                                            .q = q,
                                            .kv_b_proj = w.kv_b_proj,
                                            .v_head_dim = c.v_head_dim,
                                            .rope = model.rope(),
                                            .positions = b.positions},
                                  .write = {.kv_a = kv_a,
                                            .weight = w.kv_a_layernorm,
                                            .eps = kLatentNormEps,
                                            .rope = model.rope(),
                                            .positions = b.positions,
                                            .slots = b.slots,
                                            .cache = a.kv}});
  const Tensor latent = exec.scratch().activation({T, H, c.kv_lora_rank});
  ops::mla_attention(exec, {.out = latent,
                            .q = q_latent,
                            .cache = a.kv,
                            .positions = b.positions,
                            .cu_seqlens_q = b.cu_seqlens_q,
                            .block_table = b.block_table,
                            .softmax_scale = model.softmax_scale()});
  const Tensor o = exec.scratch().activation({T, H, c.v_head_dim});
  ops::mla_value(exec, {.out = o,
                        .latent = latent,
                        .kv_b_proj = w.kv_b_proj,
                        .qk_nope_head_dim = c.qk_nope_head_dim});
  ops::linear(exec,
              {.out = a.out, .x = reshape(o, {T, H * c.v_head_dim}), .w = w.o_proj, .bias = {}});
  rank.comm.all_reduce_sum(exec, a.out);  // o_proj is row-parallel; a no-op with one rank
}

}  // namespace dsr
