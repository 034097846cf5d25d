#include "support/reference_model.h"

#include <algorithm>

namespace dsr::test {
namespace {

template <typename T>
Tensor tensor_of(const std::vector<T>& values, DType dtype) {
  return Tensor::of(values.data(), dtype, {static_cast<int64_t>(values.size())});
}

// The host memory behind a ForwardBatch.
class BatchData {
 public:
  explicit BatchData(const std::vector<SequencePart>& parts) {
    for (const SequencePart& p : parts) max_blocks_ = std::max(max_blocks_, p.blocks.size());
    for (const SequencePart& p : parts) add(p);
  }

  ForwardBatch view() const {
    const auto n_seqs = static_cast<int64_t>(seq_lens_.size());
    const auto max_blocks = static_cast<int64_t>(max_blocks_);
    return {.token_ids = tensor_of(ids_, DType::kI32),
            .positions = tensor_of(positions_, DType::kI32),
            .slots = tensor_of(slots_, DType::kI64),
            .cu_seqlens_q = tensor_of(cu_, DType::kI32),
            .seq_lens = tensor_of(seq_lens_, DType::kI32),
            .block_table = Tensor::of(table_.data(), DType::kI32, {n_seqs, max_blocks}),
            .logit_rows = tensor_of(rows_, DType::kI32),
            .drawn = {},
            .prompts = prompts_};
  }
  Tensor next_ids() const { return tensor_of(next_ids_, DType::kI32); }
  bool has_next_ids() const { return !next_ids_.empty(); }

 private:
  void add(const SequencePart& p) {
    const auto n = static_cast<int64_t>(p.ids.size());
    for (int64_t i = 0; i < n; ++i) {
      const int64_t position = p.first_position + i;
      const int64_t block = p.blocks.at(static_cast<size_t>(position / kPageTokens));
      rows_.push_back(static_cast<int32_t>(ids_.size()));
      ids_.push_back(p.ids[static_cast<size_t>(i)]);
      positions_.push_back(static_cast<int32_t>(position));
      slots_.push_back(block * kPageTokens + position % kPageTokens);
    }
    next_ids_.insert(next_ids_.end(), p.next_ids.begin(), p.next_ids.end());
    cu_.push_back(static_cast<int32_t>(ids_.size()));
    seq_lens_.push_back(static_cast<int32_t>(p.first_position + n));
    for (size_t b = 0; b < max_blocks_; ++b)
      table_.push_back(b < p.blocks.size() ? p.blocks[b] : -1);
    if (n > 1 || prompts_.n_seqs > 0) {
      ++prompts_.n_seqs;
      prompts_.n_tokens += n;
      prompts_.n_rows += round_up(p.first_position + n, kPageTokens);
    }
  }

  size_t max_blocks_ = 0;
  PromptPart prompts_;
  std::vector<int32_t> ids_, positions_, cu_ = {0}, seq_lens_, table_, rows_, next_ids_;
  std::vector<int64_t> slots_;
};

std::vector<float> values_of(Exec& exec, const Tensor& t) {
  if (t.data == nullptr) return {};
  std::vector<float> out(static_cast<size_t>(t.shape.elements()));
  exec.download(out.data(), t.data, t.size_bytes());
  return out;
}

// Tensors of a batch where the ops of `exec` read them.
class OnDevice {
 public:
  // With `fixed`: at the same places every time, for tensors of the same sizes.
  explicit OnDevice(Exec& exec, Buffer* fixed = nullptr) : exec_(exec), fixed_(fixed) {}
  Tensor operator()(const Tensor& host) {
    if (exec_.backend() != Backend::kCuda || host.data == nullptr) return host;
    if (fixed_ != nullptr) {
      const int64_t begin = used_;
      used_ += round_up(host.size_bytes(), kAlignBytes);
      DSR_CHECK(used_ <= fixed_->size_bytes(), used_);
      fixed_->upload(begin, host.data, host.size_bytes());
      return Tensor::of(fixed_->data() + begin, host.dtype, host.shape);
    }
    buffers_.emplace_back(exec_, MemoryKind::kBatch, host.size_bytes());
    if (exec_.dry_run()) return Tensor::of(nullptr, host.dtype, host.shape);
    buffers_.back().upload(0, host.data, host.size_bytes());
    return Tensor::of(buffers_.back().data(), host.dtype, host.shape);
  }
  ForwardBatch operator()(ForwardBatch b) {
    for (Tensor* t : {&b.token_ids, &b.positions, &b.slots, &b.cu_seqlens_q, &b.seq_lens,
                      &b.block_table, &b.logit_rows})
      *t = (*this)(*t);
    return b;
  }

 private:
  Exec& exec_;
  Buffer* fixed_;
  int64_t used_ = 0;
  std::vector<Buffer> buffers_;
};

Exec make_exec(const ReferenceOptions& o) {
  if (o.bf16) return Exec::reference_with(DType::kBF16);
  return Exec(o.backend, false, o.cpu, o.cuda);
}

std::vector<int32_t> first_blocks(int64_t tokens) {
  std::vector<int32_t> out;
  for (int64_t b = 0; b < blocks_for(tokens); ++b) out.push_back(static_cast<int32_t>(b));
  return out;
}

}  // namespace

ReferenceModel::ReferenceModel(const ModelConfig& config, const WeightSource& source,
                               const ReferenceOptions& options)
    : options_(options),
      exec_(make_exec(options)),
      dry_exec_(options.backend, true, options.cpu, options.cuda),
      model_(exec_, config, source, options.max_tokens),
      dry_model_(dry_exec_, config, source, options.max_tokens),
      kv_(exec_, model_.kv_layout(options.cache_type), options.n_blocks),
      dry_kv_(dry_exec_, model_.kv_layout(options.cache_type), options.n_blocks) {
  exec_.scratch().set_poison(options.poison);
  const bool mla = config.attention == AttentionKind::kMla;
  for (int64_t l = 0; l < kv_.layout().n_layers; ++l) {
    const Tensor pages = mla ? kv_.mla(l).pages : kv_.gqa(l).pages;
    exec_.fill(pages.data, options.poison ? 0xff : 0, pages.size_bytes());
  }
}

StepResult ReferenceModel::run(const std::vector<SequencePart>& parts, Exec& exec,
                               const Model& model, KvCache& kv) {
  const BatchData data(parts);
  OnDevice on_device(exec);
  const ForwardBatch batch = on_device(data.view());
  SelfCommunicator comm;
  Rank rank{exec, comm};
  const Arena::Scope scope(exec.scratch());
  const ForwardOutput out = forward(rank, model, batch, kv);
  StepResult result;
  result.logits = values_of(exec, out.logits);
  if (data.has_next_ids())
    result.mtp_logits = values_of(
        exec, mtp_forward(
                  rank, model, batch,
                  {.depth = 0, .hidden = out.hidden, .next_ids = on_device(data.next_ids())}, kv));
  return result;
}

int64_t ReferenceModel::planned_bytes(const std::vector<SequencePart>& parts) {
  Exec exec(options_.backend, true, options_.cpu, options_.cuda);
  run(parts, exec, dry_model_, dry_kv_);
  return exec.scratch().peak_bytes();
}

void ReferenceModel::reserve_scratch(const std::vector<SequencePart>& parts) {
  const int64_t bytes = planned_bytes(parts);
  if (bytes > exec_.scratch().capacity_bytes())
    exec_.scratch().reserve(Buffer(exec_, MemoryKind::kActivations, bytes));
}

StepResult ReferenceModel::step(const std::vector<SequencePart>& parts) {
  reserve_scratch(parts);
  return run(parts, exec_, model_, kv_);
}

std::vector<float> ReferenceModel::replay(const std::vector<SequencePart>& parts) {
  constexpr int64_t kFixedBytes = int64_t{1} << 20;
  if (replayed_logits_.empty()) {
    reserve_scratch(parts);  // it stays where it is from now on
    fixed_ = Buffer(exec_, MemoryKind::kBatch, kFixedBytes);
  }
  DSR_CHECK(planned_bytes(parts) <= exec_.scratch().capacity_bytes());
  const BatchData data(parts);
  OnDevice on_device(exec_, &fixed_);
  const ForwardBatch batch = on_device(data.view());
  SelfCommunicator comm;
  Rank rank{exec_, comm};
  const Arena::Scope scope(exec_.scratch());
  const DecodeShape shape = {batch.n_tokens(), batch.block_table.shape[1]};
  Tensor& logits = replayed_logits_[shape];
  graphs_.run(exec_.cuda(), shape, [&] { logits = forward(rank, model_, batch, kv_).logits; });
  return values_of(exec_, logits);
}

std::vector<float> ReferenceModel::logits(std::span<const int32_t> ids, int64_t chunk,
                                          const std::vector<int32_t>& blocks) {
  const auto n = static_cast<int64_t>(ids.size());
  const int64_t by = chunk > 0 ? chunk : n;
  std::vector<float> out;
  for (int64_t first = 0; first < n; first += by) {
    const auto count = static_cast<size_t>(std::min(by, n - first));
    const StepResult r = step({{.ids = ids.subspan(static_cast<size_t>(first), count),
                                .first_position = first,
                                .blocks = blocks.empty() ? first_blocks(n) : blocks,
                                .next_ids = {}}});
    out.insert(out.end(), r.logits.begin(), r.logits.end());
  }
  return out;
}

std::vector<float> ReferenceModel::mtp_logits(std::span<const int32_t> ids, int64_t chunk) {
  const auto n = static_cast<int64_t>(ids.size()) - 1;
  const int64_t by = chunk > 0 ? chunk : n;
  std::vector<float> out;
  for (int64_t first = 0; first < n; first += by) {
    const auto at = static_cast<size_t>(first),
               count = static_cast<size_t>(std::min(by, n - first));
    const StepResult r = step({{.ids = ids.subspan(at, count),
                                .first_position = first,
                                .blocks = first_blocks(n),
                                .next_ids = ids.subspan(at + 1, count)}});
    out.insert(out.end(), r.mtp_logits.begin(), r.mtp_logits.end());
  }
  return out;
}

std::vector<int32_t> ReferenceModel::greedy(std::span<const int32_t> prompt, int64_t n) {
  std::vector<int32_t> ids(prompt.begin(), prompt.end());
  const std::vector<int32_t> blocks = first_blocks(static_cast<int64_t>(ids.size()) + n);
  const auto V = static_cast<size_t>(model_.config().vocab_size);
  size_t done = 0;
  std::vector<int32_t> out;
  while (static_cast<int64_t>(out.size()) < n) {
    const std::vector<float> l = step({{.ids = std::span<const int32_t>(ids).subspan(done),
                                        .first_position = static_cast<int64_t>(done),
                                        .blocks = blocks,
                                        .next_ids = {}}})
                                     .logits;
    const auto last = l.end() - static_cast<std::ptrdiff_t>(V);
    out.push_back(static_cast<int32_t>(std::max_element(last, l.end()) - last));
    done = ids.size();
    ids.push_back(out.back());
  }
  return out;
}

}  // namespace dsr::test
