// Requests in, tokens out.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "deepseek_run/log.h"
#include "deepseek_run/plan.h"
#include "deepseek_run/sampling_params.h"
#include "deepseek_run/tokenizer.h"

namespace dsr {

// Random weights in the shape of a published model, made in memory: to measure with.
struct RandomModel {
  std::string card;     // what its config.json says, as in models/
  std::string weights;  // bf16 or fp8; empty: as released
  int64_t layers = 0;   // the first so many; 0: all
  uint64_t seed = 0;
};

// What the device can do, measured on the threads that an engine computes with.
struct DevicePeaks {
  int64_t threads = 0;     // of the host; 0: not on the host
  double gb_per_s = 0;     // reading memory, 1e9 bytes
  double tflop_per_s = 0;  // float32 fused multiply-add; bf16 on a GPU's tensor cores
  std::string flop_type;   // "float32" or "bf16"
  std::string gpu;         // its name; empty: the host's processor
};

struct EngineOptions {
  std::optional<RandomModel> random = {};  // instead of model_dir
  std::string model_dir;                   // a checkpoint directory as published
  std::string device = "auto";  // auto (a GPU, else cpu) | cuda | cuda:N | cpu | reference
  int64_t threads = 0;          // of the cpu; 0: as many as physical cores it may use
  // A checkpoint's weights: mmap (read in place from its files), read (into huge pages of our own);
  // auto is mmap, except that it does not fit where the weights are larger than the memory.
  std::string load_mode = "auto";
  std::string cpu_level = "auto";  // auto (the best) | portable | avx2 | avx512 | avx512vbmi
  // exact, or fast: steps of 13 tokens and more multiply in bf16. Throws Error(kDevice) for fast
  // where the machine has no instructions for it.
  std::string cpu_math = "exact";
  int64_t cuda_arch = 0;  // of a GPU: 80 runs what an A100 could; 0: the best there is
  int64_t ctx_size = 0;   // tokens per sequence; 0: min(the model's, 32768, what fits)
  int64_t max_seqs = 1;   // sequences in a step
  int64_t chunk = 0;      // most prompt tokens in a step; 0: 2048 on a GPU, else 512
  // Tokens that the cache holds, all sequences together. 0: as many as max_seqs sequences can have,
  // or what fits, but no less than one sequence needs.
  int64_t cache_tokens = 0;
  std::string cache_type = "auto";  // auto (bf16 on GPUs, else f32) | f32 | bf16 | fp8
  // Looks at what every op writes: step() and logits() throw Error(kNonFinite) that names the first
  // number that is not finite, its layer and its op. Slow.
  bool debug_nan = false;
  const Tokenizer* tokenizer = nullptr;  // ids it has no entry for are never sampled; may be null
  WarningSink warn;
};

using RequestId = int64_t;
// A sequence keeps its KV between requests. 0: none; the request gets its own and drops it.
using SequenceId = int64_t;

struct Request {
  std::vector<TokenId> prompt;  // all of it, earlier turns included; not empty
  SamplingParams sampling;
  int64_t max_new_tokens = -1;  // at least 1; -1: to the end of the context
  bool ignore_eos = false;
  // For measuring at a depth: the keys of this many tokens of the prompt are taken as computed,
  // whatever the cache holds (Engine::fill_cache). Less than the prompt.
  int64_t assumed_tokens = 0;
  // Prefills only what follows the longest common prefix of the sequence's tokens and the prompt.
  SequenceId sequence = 0;
};

enum class FinishReason {
  kNone,        // still running
  kStop,        // an end-of-sequence token (not among the tokens given out), or a stop string
  kLength,      // max_new_tokens or the context
  kRepetition,  // the loop guard
  kError,       // a logit was not finite
  kCancelled,
};
// "stop", "length", "repetition", "error", "cancelled"; "" for kNone.
const char* name(FinishReason reason);

struct TokenLogProb {
  TokenId id = 0;
  float log_prob = 0;  // natural logarithm
  bool operator==(const TokenLogProb&) const = default;
};

// Of one generated token, under the model's own logits: before penalties, temperature and cuts.
struct TokenLogProbs {
  float log_prob = 0;
  std::vector<TokenLogProb> top;  // the likeliest, SamplingParams::logprobs of them
  bool operator==(const TokenLogProbs&) const = default;
};

struct StepOutput {
  RequestId request = 0;
  std::vector<TokenId> tokens;  // new ones, in order; may be empty
  FinishReason finish = FinishReason::kNone;
  std::vector<TokenLogProbs> log_probs = {};  // one for each token, where they were asked for
};

// What is fixed once the model is loaded.
struct ModelInfo {
  std::string directory;
  std::string architecture;
  std::string device;       // what it runs on: "cuda:0", "cpu" or "reference"
  std::string device_note;  // why device "auto" is not a GPU in a program that could use one
  int64_t vocab_size = 0;
  int64_t max_position_embeddings = 0;
  int64_t ctx_size = 0;
  std::vector<TokenId> eos_ids;  // config.json and generation_config.json together
  SamplingParams defaults;       // generation_config.json over the built-in values
  double load_seconds = 0;
  std::string load_mode;  // "mmap", "read", or "random" where the weights are made up
};

struct EngineStats {
  int64_t steps = 0;
  int64_t prompt_tokens_computed = 0;
  int64_t prompt_tokens_reused = 0;  // found in the cache: a kept sequence's, or another request's
  int64_t tokens_generated = 0;
  int64_t preemptions = 0;  // times a request lost its place and was computed again
};

// Continuous batching over one loaded model. All calls from one thread.
class Engine {
 public:
  // Plans, refuses what does not fit (Error(kDoesNotFit) holds the plan), then loads.
  static std::unique_ptr<Engine> create(const EngineOptions& options);
  ~Engine();

  const ModelInfo& info() const;
  const MemoryPlan& plan() const;
  EngineStats stats() const;

  SequenceId open_sequence();
  void close_sequence(SequenceId id);

  // Queues a request. Throws Error(kUsage) if the prompt does not fit the context, an id is out of
  // range, or the sequence is busy.
  RequestId submit(Request request);
  // The request ends with kCancelled at the next step; unknown ids are ignored.
  void cancel(RequestId id);
  bool idle() const;
  // Runs one step of the batch; empty when idle. A GPU may be at the next one when it returns.
  std::vector<StepOutput> step();

  // Float32 logits of every position of `ids`, row by row. Only when idle.
  void logits(std::span<const TokenId> ids,
              const std::function<void(int64_t position, std::span<const float> row)>& sink);

  // Puts small finite numbers all over the cache. Only when idle and no sequence is kept.
  void fill_cache();
  // Takes about a second. Only when idle.
  DevicePeaks measure_peaks();
  // What the host reads now, in half a second. Only when idle, and not of a model on a GPU.
  double measure_read_gb_per_s();
  // Of the host's memory: what measure_peaks reads, from its first call on.
  int64_t probe_bytes() const;
  // Of a GPU's memory: what was taken since the plan looked, by whomever. 0 on the host.
  int64_t device_bytes_used();

 private:
  class Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dsr
