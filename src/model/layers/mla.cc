#include "model/layers/mla.h"

#include "ops/linear.h"
#include "ops/mla.h"
#include "ops/rms_norm.h"

namespace dsr {
namespace {

// q_a_layernorm and kv_a_layernorm are built without an eps argument in the modelling code of V2
// and V3, so they use its default whatever rms_norm_eps says.
constexpr float kLatentNormEps = 1e-6f;

MlaWriteKvArgs write_args(const Model& model, const ForwardBatch& b, const MlaArgs& a,
                          const Tensor& kv_a) {
  return {.kv_a = kv_a,
          .weight = a.weights.kv_a_layernorm,
          .eps = kLatentNormEps,
          .rope = model.rope(),
          .positions = b.positions,
          .slots = b.slots,
          .cache = a.kv};
}

// Whose tokens look at which rows of the cache.
struct Lookers {
  Tensor positions, cu_seqlens_q, block_table;
};
Lookers whole(const ForwardBatch& b) { return {b.positions, b.cu_seqlens_q, b.block_table}; }

struct AbsorbedArgs {
  Tensor out;  // [T, H, v_head_dim]
  Tensor q;    // [T, H, qk_head_dim]
  Lookers batch;
  const MlaWriteKvArgs* write;  // the tokens' rows, with the query in one step; or null: they are
                                // in the cache
};

// kv_b_proj applied to queries and outputs, attention over the latents.
void absorbed(Exec& exec, const Model& model, const MlaArgs& layer, const AbsorbedArgs& a) {
  const ModelConfig& c = model.config();
  const Weight& kv_b_proj = layer.weights.kv_b_proj;
  const int64_t T = a.q.shape[0], H = a.q.shape[1];
  const Arena::Scope scope(exec.scratch());
  const Tensor q_latent = exec.scratch().activation({T, H, c.kv_lora_rank + c.qk_rope_head_dim});
  const MlaQueryArgs query = {.out = q_latent,
                              .q = a.q,
                              .kv_b_proj = kv_b_proj,
                              .v_head_dim = c.v_head_dim,
                              .rope = model.rope(),
                              .positions = a.batch.positions};
  if (a.write != nullptr)
    ops::mla_query_and_write(exec, {.query = query, .write = *a.write});
  else
    ops::mla_query(exec, query);
  const Tensor latent = exec.scratch().activation({T, H, c.kv_lora_rank});
  ops::mla_attention_and_value(exec, {.attention = {.out = latent,
                                                    .q = q_latent,
                                                    .cache = layer.kv,
                                                    .positions = a.batch.positions,
                                                    .cu_seqlens_q = a.batch.cu_seqlens_q,
                                                    .block_table = a.batch.block_table,
                                                    .softmax_scale = model.softmax_scale()},
                                      .value = {.out = a.out,
                                                .latent = latent,
                                                .kv_b_proj = kv_b_proj,
                                                .qk_nope_head_dim = c.qk_nope_head_dim}});
}

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

  const Tensor o = exec.scratch().activation({T, H, c.v_head_dim});
  const PromptPart& prompts = b.prompts;
  if (!ops::mla_expands(exec, {.qk_nope_head_dim = c.qk_nope_head_dim,
                               .qk_rope_head_dim = c.qk_rope_head_dim,
                               .v_head_dim = c.v_head_dim,
                               .kv_lora_rank = c.kv_lora_rank,
                               .n_seen = prompts.n_seen,
                               .n_pairs = prompts.n_pairs})) {
    const MlaWriteKvArgs write = write_args(model, b, a, kv_a);
    absorbed(exec, model, a, {.out = o, .q = q, .batch = whole(b), .write = &write});
  } else {
    // Tokens that are alone take the absorbed form as they do without prompts beside them.
    const int64_t n_seqs = b.n_seqs() - prompts.n_seqs, n_tokens = T - prompts.n_tokens;
    ops::mla_write_kv(exec, write_args(model, b, a, kv_a));
    if (n_tokens > 0)
      absorbed(exec, model, a,
               {.out = rows(o, 0, n_tokens),
                .q = rows(q, 0, n_tokens),
                .batch = {.positions = rows(b.positions, 0, n_tokens),
                          .cu_seqlens_q = rows(b.cu_seqlens_q, 0, n_seqs + 1),
                          .block_table = rows(b.block_table, 0, n_seqs)},
                .write = nullptr});
    ops::mla_expanded_attention(exec,
                                {.out = o,
                                 .q = q,
                                 .kv_b_proj = w.kv_b_proj,
                                 .rope = model.rope(),
                                 .cache = a.kv,
                                 .positions = b.positions,
                                 .cu_seqlens_q = rows(b.cu_seqlens_q, n_seqs, prompts.n_seqs + 1),
                                 .block_table = rows(b.block_table, n_seqs, prompts.n_seqs),
                                 .softmax_scale = model.softmax_scale(),
                                 .n_rows = prompts.n_rows});
  }
  ops::linear(exec,
              {.out = a.out, .x = reshape(o, {T, H * c.v_head_dim}), .w = w.o_proj, .bias = {}});
  rank.comm.all_reduce_sum(exec, a.out);  // o_proj is row-parallel; a no-op with one rank
}

}  // namespace dsr
