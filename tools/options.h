// What the command line says.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "deepseek_run/bench.h"
#include "deepseek_run/chat.h"
#include "deepseek_run/sampling_params.h"

namespace dsr {

enum class Command {
  kAnswer,
  kTokenize,
  kLogits,
  kInspect,
  kPlan,
  kVerify,
  kMakeRandomCheckpoint,
  kBench
};
enum class Format { kText, kJson };
enum class ReasoningMode { kShow, kHide, kSeparate };

// Sampling as far as flags set it; the rest comes from the model.
struct SamplingFlags {
  std::optional<double> temperature, top_p, min_p;
  std::optional<double> repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<int64_t> top_k, penalty_window;
  std::optional<uint64_t> seed;  // none: random
  std::vector<std::pair<TokenId, double>> logit_bias;

  void apply_to(SamplingParams& params) const;
};

struct Options {
  Command command = Command::kAnswer;
  bool wants_help = false;
  std::string help;  // the text, if it is wanted
  bool version = false;

  std::string model;  // empty: DEEPSEEK_RUN_MODEL, else the model that ships with the program
  std::string device = "auto";
  int64_t threads = 0;  // 0: as many as physical cores
  std::string cpu_level = "auto";
  int64_t cuda_arch = 0;
  std::string cache_type = "auto";
  int64_t ctx_size = 0;
  int64_t chunk = 512;

  std::optional<std::string> prompt, file, prompt_ids, system;
  std::string chat_format;  // empty: from the model
  Thinking think = Thinking::kAuto;
  std::optional<std::string> tools;  // a file
  bool raw = false;
  bool bytes = false;
  bool allow_special = false;
  bool show_prompt = false;

  int64_t predict = -1;
  SamplingFlags sampling;
  std::vector<std::string> stop;

  Format format = Format::kText;
  std::optional<ReasoningMode> reasoning;  // none: show in text, separate in json
  std::string output;                      // empty: standard output
  bool quiet = false;
  bool verbose = false;
  bool timings = true;

  std::string card, weights, gpus;  // plan
  int64_t max_seqs = 1;
  int64_t layers = 0;           // make-random-checkpoint, bench
  bool random_weights = false;  // bench
  BenchOptions bench;           // its rows

  bool count = false;  // tokenize
  bool jsonl = false;
  bool add_bos = false;
};

// Throws Error(kUsage) with the nearest name for an unknown flag.
Options parse_options(const std::vector<std::string>& arguments);

}  // namespace dsr
