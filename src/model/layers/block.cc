#include "model/layers/block.h"

#include "model/layers/ffn.h"
#include "model/layers/gqa.h"
#include "model/layers/mla.h"
#include "ops/rms_norm.h"

namespace dsr {

void block(Rank& rank, const Model& model, const ForwardBatch& batch, const BlockArgs& a) {
  Exec& exec = rank.exec;
  const auto eps = static_cast<float>(model.config().rms_norm_eps);
  const Arena::Scope scope(exec.scratch());
  const Tensor out = exec.scratch().activation(a.x.shape);
  if (model.config().attention == AttentionKind::kMla)
    mla(rank, model, batch,
        {.weights = a.weights.mla, .kv = a.kv.mla(a.kv_layer), .x = a.x, .out = out});
  else
    gqa(rank, model, batch,
        {.weights = a.weights.gqa, .kv = a.kv.gqa(a.kv_layer), .x = a.x, .out = out});
  const AddRmsNormArgs norm = {.out = a.x,
                               .residual = a.residual,
                               .x = out,
                               .weight = a.weights.post_attention_layernorm,
                               .eps = eps};
  if (a.weights.is_moe) {
    moe_ffn(rank, model.config(), a.weights.moe, norm, out);
  } else {
    ops::add_rms_norm(exec, norm);
    dense_ffn(rank, a.weights.mlp, a.x, out);
  }
  ops::add_rms_norm(
      exec, {.out = a.x, .residual = a.residual, .x = out, .weight = a.next_norm, .eps = eps});
}

}  // namespace dsr
