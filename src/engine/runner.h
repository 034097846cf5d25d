// One rank: its memory, its model, and a step of it.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "deepseek_run/engine.h"
#include "device/communicator.h"
#include "device/cuda_graph.h"
#include "device/peaks.h"
#include "engine/batch_builder.h"
#include "model/transformer.h"

namespace dsr {

// The largest step a rank prepares for.
struct StepLimits {
  int64_t max_tokens = 0;
  int64_t max_seqs = 0;
  int64_t max_logit_rows = 0;
  int64_t max_blocks = 0;   // per sequence
  int64_t n_blocks = 0;     // in the cache
  int64_t max_history = 0;  // tokens that penalties look at, all rows together
  int64_t max_biases = 0;   // all rows together
};

struct RunnerOptions {
  Backend backend = Backend::kReference;
  CpuOptions cpu;
  CudaOptions cuda = {};
  CacheType cache_type = CacheType::kF32;
  int64_t max_positions = 0;
  StepLimits limits;
  bool decode_graphs =
      true;                // of a GPU: steps of nothing but decode rows are recorded and replayed
  bool debug_nan = false;  // what every op writes is looked at; nothing is recorded then
};

// Steps of more sequences are not recorded, nor planned ahead: their launches and the host's work
// between them cost little beside what they compute.
inline constexpr int64_t kGraphSeqs = 64;

// Owns everything a rank allocates. A dry runner allocates nothing and knows what it would be: its
// memory() is the plan.
class Runner {
 public:
  // `source` outlives the runner.
  Runner(const RunnerOptions& options, const ModelConfig& config, const WeightSource& source,
         bool dry_run);

  const MemoryAccount& memory() { return exec_.memory(); }
  int64_t kv_bytes_per_token() const { return kv_.layout().bytes_per_token(); }
  // Read in place; a GPU has its own copy.
  int64_t mapped_weight_bytes() const {
    return exec_.backend() == Backend::kCuda ? 0 : model_.source_bytes();
  }
  // What the device has left for the plan, before anything of it is allocated; 0 if unknown.
  int64_t available_bytes();

  void fill_cache() { kv_.fill(); }
  Peaks measure_peaks() { return peaks_.measure(exec_); }
  double read_bytes_per_s() { return peaks_.read_bytes_per_s(exec_); }
  int64_t probe_bytes() const { return peaks_.held_bytes(); }

  // Ids that may be sampled: bit i % 32 of word i / 32.
  void set_allowed(const std::vector<int32_t>& words);

  // A step in two halves: a GPU may still be at it when start() returns. One more may be started
  // before the first is finished, but not where either gives log-probabilities; its negative token
  // ids are what the first draws.
  void start(const HostBatch& batch);
  StepResult finish();  // of the step that was started first
  StepResult step(const HostBatch& batch) {
    start(batch);
    return finish();
  }
  // Runs the step and gives the logits [R, V] to `sink` row by row.
  void logits(const HostBatch& batch, const std::function<void(std::span<const float>)>& sink);

 private:
  // Places for a batch in device memory. The arrays of a step stand one behind the other, so that
  // one copy takes them there: where, is a function of their sizes. The rest has fixed places.
  struct BatchBuffers {
    Tensor packed;  // [bytes] u8
    Tensor allowed, history, bias_ids, bias_values;
    Tensor drawn;  // [2, max_seqs] i32: tokens, then the flags of what was not finite
    Tensor log_prob_rows, log_probs, top_ids, top_log_probs;
  };
  BatchBuffers place_batch();
  struct UploadedBatch {
    ForwardBatch forward;
    SampleArgs sample;  // but for the logits
  };
  UploadedBatch upload(const HostBatch& batch);
  // What the host has of a step that was started. Two take turns.
  struct Started {
    std::byte* pinned = nullptr;     // of a GPU: the host's copy of batch_memory_
    std::optional<StreamMark> done;  // of a GPU
    int64_t n_drawn = 0;
    StepResult result = {};
  };
  Started& started(int64_t step) { return started_[static_cast<size_t>(step % kMaxStarted)]; }
  void read_drawn(Started& s);
  bool on_gpu() const { return exec_.backend() == Backend::kCuda; }
  // Where the host reads or writes what `place`, in device memory, holds or is to hold.
  std::byte* host_side(const Tensor& place, const Started& s) const;
  // The first entries of a fixed place, from the host.
  template <typename T>
  Tensor fill(const Tensor& place, const std::vector<T>& values);
  void plan_scratch();
  // Runs `work`, or what was recorded of it.
  void run(const HostBatch& batch, const std::function<void()>& work);
  std::vector<TokenLogProbs> log_probs(const HostBatch& batch, const SampleArgs& sampled);

  RunnerOptions options_;
  Exec exec_;
  SelfCommunicator comm_;
  Model model_;
  KvCache kv_;
  Buffer batch_memory_;
  PinnedMemory pinned_memory_;
  static constexpr int64_t kMaxStarted = 2;
  std::array<Started, kMaxStarted> started_;
  int64_t n_started_ = 0, n_finished_ = 0;
  BatchBuffers batch_;
  CudaGraphs graphs_;
  PeakProbe peaks_;
};

}  // namespace dsr
