#include "engine/runner.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "device/finite_check.h"
#include "engine/memory_plan.h"
#include "ops/copy.h"
#include "ops/log_probs.h"
#include "sampling/sampler_state.h"

namespace dsr {
namespace {

// Of a GPU's memory, for what CUDA takes after the plan, as kernels are loaded and steps are
// recorded. On an H100 a whole process takes 526 MiB beside its plan, most of it before the plan
// looks.
constexpr int64_t kCudaReserveBytes = int64_t{512} << 20;

// The arrays of the largest step, in the order and with the types that upload() gives them.
int64_t packed_bytes(const StepLimits& l) {
  int64_t bytes = 0;
  const auto add = [&](int64_t n, int64_t each) { bytes += round_up(n * each, kAlignBytes); };
  add(l.max_tokens, sizeof(int32_t));
  add(l.max_tokens, sizeof(int32_t));
  add(l.max_tokens, sizeof(int64_t));
  add(l.max_seqs + 1, sizeof(int32_t));
  add(l.max_seqs, sizeof(int32_t));
  add(l.max_seqs * l.max_blocks, sizeof(int32_t));
  add(l.max_logit_rows, sizeof(int32_t));
  add(l.max_seqs, sizeof(SampleRow));
  return bytes;
}

}  // namespace

std::byte* Runner::host_side(const Tensor& place, const Started& s) const {
  auto* data = place.ptr<std::byte>();
  return on_gpu() ? s.pinned + (data - batch_memory_.data()) : data;
}

template <typename T>
Tensor Runner::fill(const Tensor& place, const std::vector<T>& values) {
  const Tensor t = rows(place, 0, std::ssize(values));
  if (t.data == nullptr || values.empty()) return t;
  std::byte* on_host = host_side(t, started(n_started_));
  std::memcpy(on_host, values.data(), values.size() * sizeof(T));
  if (on_gpu()) exec_.cuda().upload_pinned(t.data, on_host, t.size_bytes());
  return t;
}

int64_t Runner::available_bytes() {
  if (!on_gpu()) return available_host_bytes();
  return std::max<int64_t>(exec_.cuda().free_bytes() - kCudaReserveBytes, 1);
}

Runner::Runner(const RunnerOptions& options, const ModelConfig& config, const WeightSource& source,
               bool dry_run)
    : options_(options),
      exec_(options.backend, dry_run, options.cpu, options.cuda),
      model_(exec_, config, source, options.max_positions),
      kv_(exec_, model_.kv_layout(options.cache_type), options.limits.n_blocks),
      batch_(place_batch()) {
  plan_scratch();
  if (options.debug_nan) exec_.watch(std::make_unique<FiniteCheck>());
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
    b.packed = place(DType::kU8, {packed_bytes(l)});
    b.allowed = place(DType::kI32, {ceil_div(V, 32)});
    b.history = place(DType::kI32, {l.max_history});
    b.bias_ids = place(DType::kI32, {l.max_biases});
    b.bias_values = place(DType::kF32, {l.max_biases});
    b.drawn = place(DType::kI32, {2, l.max_seqs});
    b.log_prob_rows = place(DType::kI32, {l.max_seqs});
    b.log_probs = place(DType::kF32, {l.max_seqs});
    b.top_ids = place(DType::kI32, {l.max_seqs, n_top});
    b.top_log_probs = place(DType::kF32, {l.max_seqs, n_top});
  };
  place_all();
  batch_memory_ = Buffer(exec_, MemoryKind::kBatch, bytes);
  base = batch_memory_.data();
  place_all();
  if (on_gpu() && !exec_.dry_run()) {
    pinned_memory_ = PinnedMemory(kMaxStarted * bytes);
    for (int64_t i = 0; i < kMaxStarted; ++i) {
      started(i).pinned = pinned_memory_.data() + i * bytes;
      started(i).done.emplace(exec_.cuda());
    }
  }
  return b;
}

// Runs the largest step dry to learn what the arena must hold, then gives it that.
void Runner::plan_scratch() {
  Exec dry(options_.backend, /*dry_run=*/true, options_.cpu, options_.cuda);
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
  Rank rank{dry, comm_};
  KvCache dry_kv(dry, kv_.layout(), l.n_blocks);
  {  // as one prompt whose neighbours are prompts too
    const Arena::Scope scope(dry.scratch());
    b.prompts = {.n_seqs = 1,
                 .n_tokens = l.max_tokens,
                 .n_rows = l.max_seqs * l.max_blocks * kPageTokens,
                 .n_seen = 1,
                 .n_pairs = l.max_tokens};
    forward(rank, model_, b, dry_kv);
  }
  const Arena::Scope scope(dry.scratch());
  b.prompts = {};
  const ForwardOutput out = forward(rank, model_, b, dry_kv);
  HostBatch sampled;
  sampled.sample_rows.resize(static_cast<size_t>(l.max_seqs));
  SampleArgs args = upload(sampled).sample;
  args.logits = rows(out.logits, 0, l.max_seqs);
  ops::sample(dry, args);
  exec_.scratch().reserve(Buffer(exec_, MemoryKind::kActivations, dry.scratch().peak_bytes()));
}

void Runner::set_allowed(const std::vector<int32_t>& words) {
  DSR_CHECK(static_cast<int64_t>(words.size()) == batch_.allowed.shape[0], words.size());
  fill(batch_.allowed, words);
}

Runner::UploadedBatch Runner::upload(const HostBatch& h) {
  const Started& now = started(n_started_);
  int64_t used = 0;
  const auto pack = [&](DType type, const Shape& shape, const auto& values) {
    Tensor t = rows(batch_.packed, used, shape.elements() * size_bytes(type));
    DSR_CHECK(t.size_bytes() == std::ssize(values) * static_cast<int64_t>(sizeof(values[0])));
    if (t.data != nullptr && !values.empty())
      std::memcpy(host_side(t, now), values.data(), static_cast<size_t>(t.size_bytes()));
    used += round_up(t.size_bytes(), kAlignBytes);
    return Tensor::of(t.data, type, shape);
  };
  const int64_t T = std::ssize(h.token_ids), S = std::ssize(h.seq_lens);
  const int64_t R = std::ssize(h.sample_rows);
  UploadedBatch out;
  ForwardBatch& b = out.forward;
  b.token_ids = pack(DType::kI32, {T}, h.token_ids);
  b.positions = pack(DType::kI32, {T}, h.positions);
  b.slots = pack(DType::kI64, {T}, h.slots);
  b.cu_seqlens_q = pack(DType::kI32, {std::ssize(h.cu_seqlens_q)}, h.cu_seqlens_q);
  b.seq_lens = pack(DType::kI32, {S}, h.seq_lens);
  b.block_table = pack(DType::kI32, {S, h.max_blocks}, h.block_table);
  b.logit_rows = pack(DType::kI32, {std::ssize(h.logit_rows)}, h.logit_rows);
  b.prompts = h.prompts;
  const auto drawn = [&](int64_t row) {
    return reshape(rows(batch_.drawn, row, 1), {batch_.drawn.shape[1]});
  };
  b.drawn = drawn(0);
  out.sample = {.token_ids = rows(drawn(0), 0, R),
                .non_finite = rows(drawn(1), 0, R),
                .logits = {},
                .rows = pack(DType::kU8, {R, int64_t{sizeof(SampleRow)}}, h.sample_rows),
                .allowed = batch_.allowed,
                .history = fill(batch_.history, h.history),
                .bias_ids = fill(batch_.bias_ids, h.bias_ids),
                .bias_values = fill(batch_.bias_values, h.bias_values)};
  if (on_gpu() && !exec_.dry_run())
    ops::copy(exec_, {.out = rows(batch_.packed, 0, used),
                      .x = Tensor::of(host_side(batch_.packed, now), DType::kU8, {used})});
  return out;
}

void Runner::run(const HostBatch& h, const std::function<void()>& work) {
  const int64_t n = std::ssize(h.seq_lens);
  // Log-probabilities read the logits afterwards, which a replay does not name.
  const bool decode = std::ssize(h.token_ids) == n && std::ssize(h.sample_rows) == n &&
                      n <= kGraphSeqs && h.log_prob_rows.empty();
  const bool recorded = options_.decode_graphs && !options_.debug_nan && decode;
  if (on_gpu() && recorded)
    graphs_.run(exec_.cuda(), {n, h.max_blocks}, work);
  else
    work();
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
  const auto download = [&](const Tensor& t, auto& values) {  // n rows of a fixed place
    values.resize(static_cast<size_t>(rows(t, 0, n).shape.elements()));
    exec_.download(values.data(), t.data, std::ssize(values) * size_bytes(t.dtype));
  };
  std::vector<float> log_probs, top_log_probs;
  std::vector<int32_t> top_ids;
  download(batch_.log_probs, log_probs);
  download(batch_.top_ids, top_ids);
  download(batch_.top_log_probs, top_log_probs);
  std::vector<TokenLogProbs> out;
  for (int64_t i = 0; i < n; ++i) {
    TokenLogProbs& token = out.emplace_back();
    token.log_prob = log_probs[static_cast<size_t>(i)];
    for (int64_t k = 0; k < n_top; ++k) {
      const auto at = static_cast<size_t>(i * batch_.top_ids.shape[1] + k);
      token.top.push_back({top_ids[at], top_log_probs[at]});
    }
  }
  return out;
}

void Runner::start(const HostBatch& h) {
  DSR_CHECK(n_started_ < n_finished_ + kMaxStarted);
  Started& now = started(n_started_);
  // The GPU may still be reading what the step before the last one has there.
  if (now.done) now.done->wait();
  const Arena::Scope scope(exec_.scratch());
  UploadedBatch batch = upload(h);
  run(h, [&] {
    Rank rank{exec_, comm_};
    const ForwardOutput out = forward(rank, model_, batch.forward, kv_);
    if (h.sample_rows.empty()) return;
    batch.sample.logits = out.logits;
    ops::sample(exec_, batch.sample);
  });
  now.n_drawn = std::ssize(h.sample_rows);
  if (!h.log_prob_rows.empty()) now.result.log_probs = log_probs(h, batch.sample);
  if (now.done) {
    const Shape bytes = {batch_.drawn.size_bytes()};
    ops::copy(exec_, {.out = Tensor::of(host_side(batch_.drawn, now), DType::kU8, bytes),
                      .x = Tensor::of(batch_.drawn.data, DType::kU8, bytes)});
    now.done->set();
  } else {
    read_drawn(now);  // the next step draws to the same place
  }
  ++n_started_;
}

void Runner::read_drawn(Started& s) {
  const auto* drawn = reinterpret_cast<const int32_t*>(host_side(batch_.drawn, s));
  const int32_t* non_finite = drawn + batch_.drawn.shape[1];
  for (int64_t r = 0; r < s.n_drawn; ++r)
    s.result.tokens.push_back(non_finite[r] != 0 ? -1 : drawn[r]);
}

StepResult Runner::finish() {
  DSR_CHECK(n_finished_ < n_started_);
  Started& s = started(n_finished_++);
  if (s.done && s.n_drawn > 0) {
    s.done->wait();
    read_drawn(s);
  }
  return std::exchange(s.result, {});
}

void Runner::logits(const HostBatch& h, const std::function<void(std::span<const float>)>& sink) {
  DSR_CHECK(n_started_ == n_finished_);
  const Arena::Scope scope(exec_.scratch());
  Rank rank{exec_, comm_};
  const ForwardOutput out = forward(rank, model_, upload(h).forward, kv_);
  std::vector<float> row(static_cast<size_t>(out.logits.shape[1]));
  for (int64_t r = 0; r < out.logits.shape[0]; ++r) {
    exec_.download(row.data(), out.logits.at(r), std::ssize(row) * size_bytes(DType::kF32));
    sink(row);
  }
}

}  // namespace dsr
