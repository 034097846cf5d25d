// What a model will need in memory, known before anything is allocated.
#pragma once

#include <cstdint>
#include <string>

#include "deepseek_run/log.h"

namespace dsr {

// Bytes of one rank. The same arithmetic sizes the cache, prints the plan, refuses what cannot fit
// and is compared with what was really allocated.
struct MemoryPlan {
  std::string device;               // "cpu", "reference" or "cuda:0"
  int64_t ctx_size = 0;             // tokens a sequence may hold
  int64_t max_seqs = 0;             // sequences at a time
  int64_t cache_tokens = 0;         // that the cache holds, all sequences together
  int64_t mapped_weight_bytes = 0;  // read in place from the checkpoint's files
  bool weights_on_disk = false;     // files that could be read again and again (--load-mode mmap)
  bool weights_may_exceed = false;  // and that was asked for
  int64_t weight_bytes = 0;         // allocated: widened vectors, RoPE tables
  int64_t kv_bytes_per_token = 0;   // all layers
  int64_t kv_cache_bytes = 0;
  int64_t activation_bytes = 0;
  int64_t batch_bytes = 0;
  int64_t available_bytes = 0;  // what the machine has left; 0: unknown

  int64_t allocated_bytes() const {
    return weight_bytes + kv_cache_bytes + activation_bytes + batch_bytes;
  }
  int64_t total_bytes() const { return mapped_weight_bytes + allocated_bytes(); }
  bool fits() const {
    const int64_t needed = weights_may_exceed ? allocated_bytes() : total_bytes();
    return available_bytes == 0 || needed <= available_bytes;
  }
  // "weights 10.9 MB + kv cache 2.6 MB + activations 1.1 MB = 14.6 MB of 16.2 GB available"
  std::string summary() const;
};

// What to plan for: a checkpoint, or the shape of one.
struct PlanQuery {
  std::string model_dir;            // a checkpoint directory; its weights are not read
  std::string card;                 // or a file with what its config.json says, as in models/
  std::string weights;              // of a card: bf16 or fp8; empty: as released
  std::string gpus;                 // "8xA100-80"; empty: the memory that `device` has left
  std::string device = "auto";      // of this machine, as for running: auto is a GPU, else the cpu
  std::string cache_type = "auto";  // auto (bf16 on GPUs, f32 here) | f32 | bf16 | fp8
  int64_t ctx_size = 0;             // tokens; 0: min(the model's, 32768, what fits)
  int64_t max_seqs = 1;
  int64_t chunk = 0;  // most prompt tokens in a step; 0: 2048 on GPUs, else 512
  WarningSink warn;
};

struct PlanReport {
  std::string text;  // lines, or JSON on one line
  bool fits = false;
};

// What a model will need, by part, whether that fits, and the changes that would make it fit. Needs
// no GPU. Throws Error(kUsage), Error(kModel) or, where the device is not there, Error(kDevice).
PlanReport plan_text(const PlanQuery& query);
PlanReport plan_json(const PlanQuery& query);

}  // namespace dsr
