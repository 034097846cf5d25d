// A model for tests, on the reference backend unless told: ids in, logits out, in any chunking.
//
//   const TinyCheckpoint checkpoint("v3-bf16");
//   ReferenceModel model(checkpoint.config(), checkpoint);
//   const std::vector<float> logits = model.logits(ids);  // [ids, V]
#pragma once

#include <map>
#include <span>
#include <vector>

#include "device/cuda_graph.h"
#include "model/transformer.h"

namespace dsr::test {

struct ReferenceOptions {
  int64_t max_tokens = 192;  // of one sequence
  int64_t n_blocks = 8;      // of the KV cache
  CacheType cache_type = CacheType::kF32;
  bool poison = false;  // every activation, and the whole cache, starts as NaN
  Backend backend = Backend::kReference;
  CpuOptions cpu = {};
  CudaOptions cuda = {};
  bool bf16 = false;  // of the reference: activations as a GPU stores them
};

// The new tokens of one sequence in a batch.
struct SequencePart {
  std::span<const int32_t> ids;  // new tokens
  int64_t first_position = 0;
  std::vector<int32_t> blocks;        // of the whole sequence
  std::span<const int32_t> next_ids;  // for the MTP layer: the token after each; or empty
};

struct StepResult {
  std::vector<float> logits;      // [T, V], every token
  std::vector<float> mtp_logits;  // [T, V] if next_ids were given
};

class ReferenceModel {
 public:
  ReferenceModel(const ModelConfig& config, const WeightSource& source,
                 const ReferenceOptions& options = {});

  const Model& model() const { return model_; }
  Exec& exec() { return exec_; }
  KvCache& kv() { return kv_; }

  // One forward pass over a ragged batch.
  StepResult step(const std::vector<SequencePart>& parts);

  // The same on a GPU by way of graphs: the first time for a number of tokens it runs, the second
  // it is recorded, from then on replayed. As many sequences and blocks each time as the first.
  std::vector<float> replay(const std::vector<SequencePart>& parts);

  // The logits of every position of one sequence, `chunk` tokens at a time (0: all at once), its
  // tokens in `blocks` (empty: 0, 1, 2, ...).
  std::vector<float> logits(std::span<const int32_t> ids, int64_t chunk = 0,
                            const std::vector<int32_t>& blocks = {});
  // Of positions 0..n - 2: the MTP layer's.
  std::vector<float> mtp_logits(std::span<const int32_t> ids, int64_t chunk = 0);
  // The n tokens that follow a prompt at temperature 0, one by one.
  std::vector<int32_t> greedy(std::span<const int32_t> prompt, int64_t n);

  // Bytes of activations that a dry run of these parts counts.
  int64_t planned_bytes(const std::vector<SequencePart>& parts);

 private:
  void reserve_scratch(const std::vector<SequencePart>& parts);
  StepResult run(const std::vector<SequencePart>& parts, Exec& exec, const Model& model,
                 KvCache& kv);

  ReferenceOptions options_;
  Exec exec_, dry_exec_;
  Model model_, dry_model_;
  KvCache kv_, dry_kv_;
  Buffer fixed_;  // where a batch stands that is replayed
  CudaGraphs graphs_;
  std::map<DecodeShape, Tensor> replayed_logits_;
};

}  // namespace dsr::test
