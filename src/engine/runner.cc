#include "engine/runner.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "ops/log_probs.h"
#include "sampling/sampler_state.h"

namespace dsr {
namespace {

// The first `n` entries of a batch array, filled from the host.
template <typename T>
Tensor fill(const Tensor& place, const std::vector<T>& values) {
  const Tensor t = rows(place, 0, static_cast<int64_t>(values.size()));
  if (t.data != nullptr && !values.empty())
    std::memcpy(t.data, values.data(), values.size() * sizeof(T));
  return t;
}

}  // namespace

Runner::Runner(const RunnerOptions& options, const ModelConfig& config, const WeightSource& source,
               bool dry_run)
    : options_(options),
      exec_(options.backend, dry_run, options.cpu),
      model_(exec_, config, source, options.max_positions),
      kv_(exec_, model_.kv_layout(options.cache_type), options.limits.n_blocks),
      batch_(place_batch()) {
  plan_scratch();
}

Runner::BatchBuffers Runner::place_batch() {
  const StepLimits& l = options_.limits;
  const int64_t V = model_.config().vocab_size;
  const int64_t n_top = std::min(kMaxTopLogProbs, V);
  BatchBuffers b;
  int64_t bytes = 0;
  std::byte* base = nullptr;
  const auto place = [&](DType type, const Shape& shape) {
    const Tensor t = Tensor::of(base == nullptr ? nullptr : base + bytes, type, shape);
    bytes = round_up(bytes + t.size_bytes(), kAlignBytes);
    return t;
  };
  const auto place_all = [&] {
    bytes = 0;
    b.token_ids = place(DType::kI32, {l.max_tokens});
    b.positions = place(DType::kI32, {l.max_tokens});
    b.slots = place(DType::kI64, {l.max_tokens});
    b.cu_seqlens_q = place(DType::kI32, {l.max_seqs + 1});
    b.seq_lens = place(DType::kI32, {l.max_seqs});
    b.block_table = place(DType::kI32, {l.max_seqs * l.max_blocks});
    b.logit_rows = place(DType::kI32, {l.max_logit_rows});
    b.sample_rows = place(DType::kU8, {l.max_seqs, int64_t{sizeof(SampleRow)}});
    b.allowed = place(DType::kI32, {ceil_div(V, 32)});
    b.history = place(DType::kI32, {l.max_history});
    b.bias_ids = place(DType::kI32, {l.max_biases});
    b.bias_values = place(DType::kF32, {l.max_biases});
    b.sampled = place(DType::kI32, {l.max_seqs});
    b.non_finite = place(DType::kI32, {l.max_seqs});
    b.log_prob_rows = place(DType::kI32, {l.max_seqs});
    b.log_probs = place(DType::kF32, {l.max_seqs});
    b.top_ids = place(DType::kI32, {l.max_seqs, n_top});
    b.top_log_probs = place(DType::kF32, {l.max_seqs, n_top});
  };
  place_all();
  batch_memory_ = Buffer(exec_, MemoryKind::kBatch, bytes);
  base = batch_memory_.data();
  place_all();
  return b;
}

// Runs the largest step dry to learn what the arena must hold, then gives it that.
void Runner::plan_scratch() {
  Exec dry(options_.backend, /*dry_run=*/true, options_.cpu);
  const StepLimits& l = options_.limits;
  const auto shape = [](DType type, const Shape& s) { return Tensor::of(nullptr, type, s); };
  ForwardBatch b;
  b.token_ids = shape(DType::kI32, {l.max_tokens});
  b.positions = b.token_ids;
  b.slots = shape(DType::kI64, {l.max_tokens});
  b.cu_seqlens_q = shape(DType::kI32, {l.max_seqs + 1});
  b.seq_lens = shape(DType::kI32, {l.max_seqs});
  b.block_table = shape(DType::kI32, {l.max_seqs, l.max_blocks});
  b.logit_rows = shape(DType::kI32, {l.max_logit_rows});
  b.max_q_len = l.max_tokens;
  Rank rank{dry, comm_};
  KvCache dry_kv(dry, kv_.layout(), l.n_blocks);
  forward(rank, model_, b, dry_kv);
  exec_.scratch().reserve(Buffer(exec_, MemoryKind::kActivations, dry.scratch().peak_bytes()));
}

void Runner::set_allowed(const std::vector<int32_t>& words) {
  DSR_CHECK(static_cast<int64_t>(words.size()) == batch_.allowed.shape[0], words.size());
  fill(batch_.allowed, words);
}

ForwardBatch Runner::upload(const HostBatch& h) {
  ForwardBatch b;
  b.token_ids = fill(batch_.token_ids, h.token_ids);
  b.positions = fill(batch_.positions, h.positions);
  b.slots = fill(batch_.slots, h.slots);
  b.cu_seqlens_q = fill(batch_.cu_seqlens_q, h.cu_seqlens_q);
  b.seq_lens = fill(batch_.seq_lens, h.seq_lens);
  const auto n_seqs = static_cast<int64_t>(h.seq_lens.size());
  b.block_table = reshape(fill(batch_.block_table, h.block_table), {n_seqs, h.max_blocks});
  b.logit_rows = fill(batch_.logit_rows, h.logit_rows);
  b.max_q_len = h.max_q_len;
  return b;
}

SampleArgs Runner::sample_args(const HostBatch& h, const Tensor& logits) {
  const auto n = static_cast<int64_t>(h.sample_rows.size());
  return {.token_ids = rows(batch_.sampled, 0, n),
          .non_finite = rows(batch_.non_finite, 0, n),
          .logits = logits,
          .rows = fill(batch_.sample_rows, h.sample_rows),
          .allowed = batch_.allowed,
          .history = fill(batch_.history, h.history),
          .bias_ids = fill(batch_.bias_ids, h.bias_ids),
          .bias_values = fill(batch_.bias_values, h.bias_values)};
}

std::vector<TokenLogProbs> Runner::log_probs(const HostBatch& h, const SampleArgs& sampled) {
  const auto n = static_cast<int64_t>(h.log_prob_rows.size());
  const int64_t n_top = std::min(h.n_top_log_probs, batch_.top_ids.shape[1]);
  const LogProbsArgs args = {.log_probs = rows(batch_.log_probs, 0, n),
                             .top_ids = columns(rows(batch_.top_ids, 0, n), 0, n_top),
                             .top_log_probs = columns(rows(batch_.top_log_probs, 0, n), 0, n_top),
                             .logits = sampled.logits,
                             .token_ids = sampled.token_ids,
                             .rows = fill(batch_.log_prob_rows, h.log_prob_rows)};
  ops::log_probs(exec_, args);
  std::vector<TokenLogProbs> out;
  for (int64_t i = 0; i < n; ++i) {
    TokenLogProbs& token = out.emplace_back();
    token.log_prob = *args.log_probs.ptr<float>(i);
    for (int64_t k = 0; k < n_top; ++k)
      token.top.push_back({*args.top_ids.ptr<int32_t>(i, k), *args.top_log_probs.ptr<float>(i, k)});
  }
  return out;
}

StepResult Runner::step(const HostBatch& h) {
  const Arena::Scope scope(exec_.scratch());
  Rank rank{exec_, comm_};
  const ForwardOutput out = forward(rank, model_, upload(h), kv_);
  if (h.sample_rows.empty()) return {};
  const SampleArgs args = sample_args(h, out.logits);
  ops::sample(exec_, args);
  StepResult result;
  for (int64_t r = 0; r < args.token_ids.shape[0]; ++r)
    result.tokens.push_back(
        *args.non_finite.ptr<int32_t>(r) != 0 ? -1 : *args.token_ids.ptr<int32_t>(r));
  if (!h.log_prob_rows.empty()) result.log_probs = log_probs(h, args);
  return result;
}

void Runner::logits(const HostBatch& h, const std::function<void(std::span<const float>)>& sink) {
  const Arena::Scope scope(exec_.scratch());
  Rank rank{exec_, comm_};
  const ForwardOutput out = forward(rank, model_, upload(h), kv_);
  for (int64_t r = 0; r < out.logits.shape[0]; ++r)
    sink({out.logits.ptr<float>(r), static_cast<size_t>(out.logits.shape[1])});
}

}  // namespace dsr
