#include "model/layers/gqa.h"

#include "ops/gqa.h"
#include "ops/linear.h"

namespace dsr {

void gqa(Rank& rank, const Model& model, const ForwardBatch& b, const GqaArgs& a) {
  Exec& exec = rank.exec;
  const ModelConfig& c = model.config();
  const GqaWeights& w = a.weights;
  const int64_t T = a.x.shape[0], d = c.head_dim;
  const int64_t H = c.num_attention_heads / rank.comm.size();
  const int64_t G = c.num_key_value_heads / rank.comm.size();
  const Arena::Scope scope(exec.scratch());

  const Tensor qkv = exec.scratch().activation({T, (H + 2 * G) * d});
  ops::linear(exec, {.out = qkv, .x = a.x, .w = w.qkv_proj, .bias = w.qkv_bias});
  const Tensor q = reshape(columns(qkv, 0, H * d), {T, H, d});
  const Tensor k = reshape(columns(qkv, H * d, G * d), {T, G, d});
  const Tensor v = reshape(columns(qkv, (H + G) * d, G * d), {T, G, d});

  ops::gqa_write_kv(exec, {.k = k,
                           .v = v,
                           .rope = model.rope(),
                           .positions = b.positions,
                           .slots = b.slots,
                           .cache = a.kv});
  const Tensor o = exec.scratch().activation({T, H, d});
  ops::gqa_attention(exec, {.out = o,
                            .q = q,
                            .rope = model.rope(),
                            .cache = a.kv,
                            .positions = b.positions,
                            .cu_seqlens_q = b.cu_seqlens_q,
                            .block_table = b.block_table,
                            .softmax_scale = model.softmax_scale()});
  ops::linear(exec, {.out = a.out, .x = reshape(o, {T, H * d}), .w = w.o_proj, .bias = {}});
  rank.comm.all_reduce_sum(exec, a.out);  // o_proj is row-parallel; a no-op with one rank
}

}  // namespace dsr
