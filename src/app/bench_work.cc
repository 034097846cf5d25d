#include "app/bench_work.h"

#include "model/weights.h"

namespace dsr {

BenchWork bench_work(const ModelConfig& config, const WeightSource& source,
                     int64_t kv_bytes_per_token) {
  BenchWork out{.config = config, .sizes = model_sizes_of_weights(config, source)};
  out.sizes.kv_bytes_per_token = kv_bytes_per_token;
  out.head_parameters =
      static_cast<double>(config.vocab_size) * static_cast<double>(config.hidden_size);
  ModelWeights unused;
  for_each_weight(config, /*with_mtp=*/false, unused, [&](const WeightSpec& w) {
    const Part part = part_of(w.name, config);
    if (w.role != WeightRole::kLinear || part == Part::kHead) return;
    const double n = static_cast<double>(w.shape[0]) * static_cast<double>(w.shape[1]);
    out.active_parameters += part == Part::kExperts ? n * out.sizes.chosen_experts : n;
  });
  return out;
}

double decode_bytes(const BenchWork& w, int64_t batch, double context) {
  return step_bytes(w.sizes, {.batch = batch, .context = context});
}

double prefill_flop(const BenchWork& w, int64_t batch, int64_t n, int64_t depth) {
  const ModelConfig& c = w.config;
  const auto tokens = static_cast<double>(n);
  const int64_t per_pair =
      c.attention == AttentionKind::kMla ? c.qk_head_dim() + c.v_head_dim : 2 * c.head_dim;
  // Token i looks at depth + i + 1 of them.
  const double pairs = tokens * static_cast<double>(depth) + tokens * (tokens + 1) / 2;
  const double attention = 2.0 * static_cast<double>(c.num_hidden_layers * c.num_attention_heads) *
                           static_cast<double>(per_pair) * pairs;
  return static_cast<double>(batch) *
         (2 * w.active_parameters * tokens + 2 * w.head_parameters + attention);
}

}  // namespace dsr
