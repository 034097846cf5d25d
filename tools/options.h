// What the command line says.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "deepseek_run/batch.h"
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
  kBench,
  kBatch,
  kPerplexity
};
enum class Format { kText, kJson };
enum class Truncate { kNone, kLeft, kMiddle };
enum class ReasoningMode { kShow, kHide, kSeparate };

// Sampling as far as flags set it; the rest comes from the model.
struct SamplingFlags {
  std::optional<double> temperature, top_p, min_p;
  std::optional<double> repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<double> dry_multiplier, dry_base;
  std::optional<int64_t> top_k, penalty_window, dry_allowed_length, logprobs;
  std::optional<bool> loop_guard;
  std::optional<uint64_t> seed;  // none: random
  std::vector<std::pair<TokenId, double>> logit_bias;

  void apply_to(SamplingParams& params) const;
};

// Which model, and where that was said. Empty: the model that ships with the program.
struct ModelChoice {
  std::string path;
  std::string source = "-m";

  bool empty() const { return path.empty(); }
};

// A setting as it was given: the flag's name without dashes, the value ("on" or "off" for a flag
// that takes none), and where: "flag", a variable's name, or FILE:LINE.
struct Given {
  std::string name, value, source;
};

struct Options {
  Command command = Command::kAnswer;
  std::optional<std::string> help;  // a word to look for, or empty
  bool version = false;
  bool list_devices = false;
  bool man = false;
  std::string completion;  // a shell
  bool print_config = false;
  std::string config;  // a file
  std::vector<Given> given;
  std::vector<std::string> warnings;  // about settings

  ModelChoice model;
  std::string device = "auto";
  int64_t threads = 0;  // 0: as many as physical cores
  std::string cpu_level = "auto";
  std::string cpu_math = "exact";
  int64_t cuda_arch = 0;
  std::string load_mode = "auto";
  std::string cache_type = "auto";
  bool debug_nan = false;
  int64_t ctx_size = 0;
  int64_t chunk = 0;  // 0: by the device

  std::optional<std::string> prompt, file, prompt_ids, system;
  std::string chat_format;  // empty: from the model
  Thinking think = Thinking::kAuto;
  std::optional<std::string> tools;  // a file
  bool raw = false;
  bool bytes = false;
  bool allow_special = false;
  bool show_prompt = false;
  bool interactive = false;
  Truncate truncate = Truncate::kNone;

  int64_t predict = -1;
  int64_t n_samples = 1;
  SamplingFlags sampling;
  std::vector<std::string> stop;

  Format format = Format::kText;
  std::optional<ReasoningMode> reasoning;  // none: show in text, separate in json
  std::string output;                      // empty: standard output
  bool quiet = false;
  bool verbose = false;
  bool timings = true;
  bool strict_tty = false;

  std::string card, weights, gpus;  // plan
  int64_t max_seqs = 0;             // 0: the command's own choice
  int64_t layers = 0;               // make-random-checkpoint, bench
  bool random_weights = false;      // bench
  BenchOptions bench;               // its rows
  BatchOptions batch;               // what only it has
  int64_t stride = 0;               // perplexity

  bool count = false;  // tokenize
  bool jsonl = false;
  bool add_bos = false;
};

// What stands around the command line.
struct Surroundings {
  std::vector<std::string> environment;  // "NAME=value"
  // The contents of a configuration file; nullopt if there is none. Throws Error(kUsage).
  std::function<std::optional<std::string>(const std::string& path)> read_file;
};

// Flags, then DEEPSEEK_RUN_<FLAG>, then --config, then the user's configuration file: the first of
// these that sets a flag counts. Throws Error(kUsage) with the nearest name for an unknown flag or
// setting; an error names the variable, or the file and line.
Options parse_options(const std::vector<std::string>& arguments, const Surroundings& around);

}  // namespace dsr
