#include "model/transformer.h"

#include "model/layers/block.h"
#include "ops/embedding.h"
#include "ops/gather_rows.h"
#include "ops/linear.h"
#include "ops/rms_norm.h"

namespace dsr {
namespace {

// logits = lm_head(hidden) of the rows that are wanted.
Tensor head(Rank& rank, const Model& model, const ForwardBatch& b, const Tensor& hidden) {
  Exec& exec = rank.exec;
  const ModelConfig& c = model.config();
  exec.enter("lm_head");
  const Tensor logits = exec.scratch().tensor(DType::kF32, {b.n_logit_rows(), c.vocab_size});
  const Arena::Scope scope(exec.scratch());
  const Tensor rows = exec.scratch().activation({b.n_logit_rows(), c.hidden_size});
  ops::gather_rows(exec, {.out = rows, .x = hidden, .row_ids = b.logit_rows});
  ops::linear(exec, {.out = logits, .x = rows, .w = model.weights().lm_head, .bias = {}});
  return logits;
}

}  // namespace

Model::Model(Exec& exec, const ModelConfig& config, const WeightSource& source,
             int64_t max_positions)
    : config_(config),
      loaded_(exec, config, source),
      rope_(exec, config, max_positions),
      softmax_scale_(static_cast<float>(dsr::softmax_scale(config))) {}

KvLayout Model::kv_layout(CacheType type) const {
  const auto n_layers = static_cast<int64_t>(weights().layers.size() + weights().mtp.size());
  if (config_.attention == AttentionKind::kMla)
    return {n_layers, MlaRowFormat{type, config_.kv_lora_rank, config_.qk_rope_head_dim}};
  return {n_layers, GqaPageFormat{type, config_.num_key_value_heads, config_.head_dim}};
}

ForwardOutput forward(Rank& rank, const Model& model, const ForwardBatch& b, KvCache& kv) {
  Exec& exec = rank.exec;
  const ModelConfig& c = model.config();
  const ModelWeights& w = model.weights();
  const int64_t T = b.n_tokens();
  const auto eps = static_cast<float>(c.rms_norm_eps);
  const Tensor x = exec.scratch().activation({T, c.hidden_size});  // normed input, then hidden
  {
    const Arena::Scope scope(exec.scratch());
    const Tensor residual = exec.scratch().activation({T, c.hidden_size});
    exec.enter("model.embed_tokens");
    ops::embedding(
        exec,
        {.out = residual, .token_ids = b.token_ids, .table = w.embed_tokens, .drawn = b.drawn});
    ops::rms_norm(exec,
                  {.out = x, .x = residual, .weight = w.layers[0].input_layernorm, .eps = eps});
    for (size_t l = 0; l < w.layers.size(); ++l) {
      // Each block ends with the norm that the next one begins with.
      const bool last = l + 1 == w.layers.size();
      exec.enter("model.layers", static_cast<int64_t>(l));
      block(rank, model, b,
            {.weights = w.layers[l],
             .next_norm = last ? w.norm : w.layers[l + 1].input_layernorm,
             .kv = kv,
             .kv_layer = static_cast<int64_t>(l),
             .x = x,
             .residual = residual});
    }
  }
  return {.hidden = x, .logits = head(rank, model, b, x)};
}

Tensor mtp_forward(Rank& rank, const Model& model, const ForwardBatch& b, const MtpInput& in,
                   KvCache& kv) {
  Exec& exec = rank.exec;
  const ModelConfig& c = model.config();
  const MtpWeights& w = model.weights().mtp.at(static_cast<size_t>(in.depth));
  const int64_t T = b.n_tokens(), D = c.hidden_size;
  const auto eps = static_cast<float>(c.rms_norm_eps);
  const Tensor x = exec.scratch().activation({T, D});
  {
    const Arena::Scope scope(exec.scratch());
    const Tensor residual = exec.scratch().activation({T, D});
    const Tensor both = exec.scratch().activation({T, 2 * D});  // embedding | hidden
    const Tensor e = columns(both, 0, D);
    exec.enter("model.layers", c.num_hidden_layers + in.depth);
    ops::embedding(
        exec, {.out = residual, .token_ids = in.next_ids, .table = model.weights().embed_tokens});
    ops::rms_norm(exec, {.out = e, .x = residual, .weight = w.enorm, .eps = eps});
    ops::rms_norm(exec,
                  {.out = columns(both, D, D), .x = in.hidden, .weight = w.hnorm, .eps = eps});
    ops::linear(exec, {.out = residual, .x = both, .w = w.eh_proj, .bias = {}});
    ops::rms_norm(exec, {.out = x, .x = residual, .weight = w.block.input_layernorm, .eps = eps});
    block(rank, model, b,
          {.weights = w.block,
           .next_norm = w.norm,
           .kv = kv,
           .kv_layer = c.num_hidden_layers + in.depth,
           .x = x,
           .residual = residual});
  }
  return head(rank, model, b, x);
}

}  // namespace dsr
